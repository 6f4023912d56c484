// Package slots spreads backends over the slots of a table. The kernel chooses one of the slots at
// random for each new connection.
//
// All backends hold the same number of slots, or one more. A change of the backends changes as few
// slots as possible. The package is pure: the same former table and the same backends give the same
// table on every host. Its callers are overlay/vip and overlay/mesh. It starts no goroutines.
package slots

import "slices"

const (
	// exact is the largest number of backends for which the table has one slot for each backend.
	// Such a table is perfectly fair, and small enough to be written with one system call.
	exact = 32
	// share is the least number of slots of a backend in a larger table, except in one that is too
	// small for that many. With 4 slots the shares of two backends differ by at most a quarter.
	share = 4
	// MaxSize is the number of slots of the largest table. Further backends get no slot. No subnet
	// that swarm allocates has that many addresses.
	MaxSize = 65536
)

// sizeClasses are the sizes of larger tables. With few sizes a whole table is rarely written anew.
func sizeClasses() []int { return []int{256, 1024, 4096} }

// Size returns the number of slots for n backends. current is the size of the present table, 0 if
// there is none.
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

// Fill returns the table for the backends, which may be in any order. former is the present table,
// nil if there is none. Fill changes neither of them.
func Fill[B comparable](former, backends []B, compare func(a, b B) int) []B {
	backends = slices.Compact(slices.SortedFunc(slices.Values(backends), compare))
	backends = backends[:min(len(backends), MaxSize)]
	n := len(backends)
	if n == 0 {
		return nil
	}
	m := Size(n, len(former))
	if m != len(former) {
		table := make([]B, m)
		for i := range table {
			table[i] = backends[i%n]
		}
		return table
	}
	return refill(former, backends)
}

// refill changes only slots of backends that are gone or hold more than their share.
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
	// m%n backends hold one slot more than m/n. Choose first the backends that hold more already,
	// so that few slots change.
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
	table := slices.Clone(former)
	var free []int
	for i, b := range table {
		if quota[b] == 0 {
			free = append(free, i)
			continue
		}
		quota[b]--
	}
	for _, b := range backends {
		for range quota[b] {
			table[free[0]], free = b, free[1:]
		}
	}
	return table
}
