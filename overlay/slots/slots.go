// Package slots spreads backends over the slots of a table, for kernels that choose one of M slots at random.
//
// Each backend holds as many slots as any other, or one more; a change of backends changes no more slots than that
// needs. It is pure: the same former table and the same backends give the same table, on every host. Callers:
// overlay/vip, overlay/mesh. No goroutines.
package slots

import "slices"

const (
	// exact is the largest number of backends for which a table has just as many slots: it is perfectly fair, and writing
	// all of it costs no more than a system call.
	exact = 32
	// share is how many slots a backend has at least on a higher rung, where the ladder allows: shares differ by a quarter at most.
	share = 4
	// Top is the largest table. More backends than that are cut off: no subnet that we allocate from has as many.
	Top = 65536
)

// rungs are the sizes of large tables. Fewer rungs mean fewer rewrites of a whole table.
func rungs() []int { return []int{256, 1024, 4096} }

// Size is the number of slots for n backends, of a service that has current slots now (0: none).
func Size(n, current int) int {
	want := ideal(n)
	if current <= want || current <= exact {
		return want
	}
	// A service that goes up and down at a border stays on the higher rung.
	if ideal(n+n/2) >= current {
		return current
	}
	return want
}

func ideal(n int) int {
	if n <= exact {
		return n
	}
	for _, m := range rungs() {
		if n*share <= m {
			return m
		}
	}
	if n <= 4096 {
		return 4096
	}
	return Top
}

// Fill returns the table that follows former (nil: there was none) for these backends, in any order. Neither is changed.
func Fill[B comparable](former, backends []B, compare func(a, b B) int) []B {
	backends = slices.Compact(slices.SortedFunc(slices.Values(backends), compare))
	backends = backends[:min(len(backends), Top)]
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

// refill moves only slots of backends that have gone or hold more than their share.
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
	// Those that hold more than m/n keep one more than that, as far as there are any to keep; the rest of them go round.
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
