// Package slots assigns the slots of a service to its backends. A slot has one backend. For each
// new connection the kernel chooses one of the service's slots at random.
//
// All backends have the same number of slots, or one more. A change of the backends changes as few
// slots as possible. The package is pure: the same former slots and the same backends give the same
// slots on every host. Its callers are overlay/vip and overlay/mesh. It starts no goroutines.
package slots

import "slices"

const (
	// exact is the largest number of backends for which there is one slot for each backend. Such
	// slots are perfectly fair, and so few that one system call can write them.
	exact = 32
	// share is how many slots each backend has at least if there are more backends than exact. With
	// 4 slots the shares of two backends differ by at most a quarter. There are two exceptions:
	// 1025 to 4096 backends together have 4096 slots, and more than 16384 together have MaxSize
	// slots.
	share = 4
	// MaxSize is the largest number of slots. Further backends get no slot. No subnet that swarm
	// allocates has that many addresses.
	MaxSize = 65536
)

// sizeClasses are the numbers of slots between exact and MaxSize. There are few of them, so that
// the number of slots changes rarely. When it changes, all slots must be written again.
func sizeClasses() []int { return []int{256, 1024, 4096} }

// Size returns the number of slots for n backends. current is the present number of slots, 0 if
// there are none.
func Size(n, current int) int {
	want := ideal(n)
	if current <= want || current <= exact {
		return want
	}
	// Keep the larger size if the number of backends may soon need it again.
	if ideal(n+n/2) >= current {
		return current
	}
	return want
}

func ideal(n int) int {
	if n <= exact {
		return n
	}
	for _, m := range sizeClasses() {
		if n*share <= m {
			return m
		}
	}
	if n <= 4096 {
		return 4096
	}
	return MaxSize
}

// Fill returns the slots for the backends, which may be in any order. Each element of the result is
// the backend of one slot. former has the present slots, nil if there are none. Fill does not
// change its arguments.
func Fill[B comparable](former, backends []B, compare func(a, b B) int) []B {
	backends = slices.Compact(slices.SortedFunc(slices.Values(backends), compare))
	backends = backends[:min(len(backends), MaxSize)]
	n := len(backends)
	if n == 0 {
		return nil
	}
	m := Size(n, len(former))
	if m != len(former) {
		slots := make([]B, m)
		for i := range slots {
			slots[i] = backends[i%n]
		}
		return slots
	}
	return refill(former, backends)
}

// refill changes only slots of backends that are gone or have more than their share.
func refill[B comparable](former, backends []B) []B {
	m, n := len(former), len(backends)
	has := make(map[B]int, n)
	for _, b := range backends {
		has[b] = 0
	}
	for _, b := range former {
		if _, ok := has[b]; ok {
			has[b]++
		}
	}
	// m%n backends get one slot more than m/n. Choose first the backends that have more already, so
	// that few slots change.
	quota := make(map[B]int, n)
	extra := m % n
	for _, more := range []bool{true, false} {
		for _, b := range backends {
			if (has[b] > m/n) != more {
				continue
			}
			quota[b] = m / n
			if extra > 0 {
				quota[b]++
				extra--
			}
		}
	}
	slots := slices.Clone(former)
	var free []int
	for i, b := range slots {
		if quota[b] == 0 {
			free = append(free, i)
			continue
		}
		quota[b]--
	}
	for _, b := range backends {
		for range quota[b] {
			slots[free[0]], free = b, free[1:]
		}
	}
	return slots
}
