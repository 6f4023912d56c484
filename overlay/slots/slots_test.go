package slots_test

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"

	"swarm/overlay/slots"
)

func TestSize(t *testing.T) {
	for _, c := range []struct{ n, current, want int }{
		{1, 0, 1},
		{10, 0, 10},
		{10, 11, 10},
		{32, 0, 32},
		{33, 32, 256},
		{64, 256, 256},
		{65, 256, 1024},
		{1024, 0, 4096},
		{1025, 4096, 4096},
		{4096, 0, 4096},
		{4097, 4096, slots.MaxSize},
		{32, 256, 256}, // The size is kept, because the number of backends may grow again soon.
		{21, 256, 21},
		{60, 1024, 1024},
		{40, 1024, 256},
	} {
		if got := slots.Size(c.n, c.current); got != c.want {
			t.Errorf("Size(%d, %d) = %d, want %d", c.n, c.current, got, c.want)
		}
	}
}

func TestFill_NoneAndTooMany(t *testing.T) {
	if got := slots.Fill([]int{1, 2}, nil, cmp.Compare); got != nil {
		t.Errorf("no backends: %v, want none", got)
	}
	many := make([]int, slots.MaxSize+10)
	for i := range many {
		many[i] = i
	}
	if got := slots.Fill(nil, many, cmp.Compare); len(got) != slots.MaxSize {
		t.Errorf("more backends than slots: a table of %d, want %d", len(got), slots.MaxSize)
	}
	// Every backend has a slot if there are enough slots.
	got := slots.Fill(nil, many[:5000], cmp.Compare)
	if n := len(slices.Compact(slices.Sorted(slices.Values(got)))); n != 5000 {
		t.Errorf("%d of 5000 backends have a slot", n)
	}
}

// Backends are added and removed at random. Tables must stay fair, change as few slots as possible,
// and depend only on the former table and the backends.
func TestFill_IsFairMinimalAndDeterministic(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	var table []int
	backends := map[int]bool{}
	for range 600 {
		for range rng.IntN(8) {
			backends[rng.IntN(1500)] = true
		}
		if rng.IntN(3) == 0 {
			for b := range backends {
				if rng.IntN(6) == 0 {
					delete(backends, b)
				}
			}
		}
		list := make([]int, 0, len(backends))
		for b := range backends {
			list = append(list, b)
		}
		next := slots.Fill(table, list, cmp.Compare)
		slices.Sort(list)
		if again := slots.Fill(table, list, cmp.Compare); !slices.Equal(next, again) {
			t.Fatalf("seed %d: Fill depends on the order of %v", seed, list)
		}
		check(t, seed, table, next, list)
		table = next
	}
}

func check(t *testing.T, seed uint64, former, table, backends []int) {
	t.Helper()
	n := len(backends)
	if n == 0 {
		if table != nil {
			t.Fatalf("seed %d: no backends, table %v", seed, table)
		}
		return
	}
	count := map[int]int{}
	for _, b := range table {
		count[b]++
	}
	floor := len(table) / n
	for _, b := range backends {
		if c := count[b]; c < floor || c > floor+1 {
			t.Fatalf("seed %d: backend %d of %d holds %d of %d slots", seed, b, n, c, len(table))
		}
	}
	if len(count) != n {
		t.Fatalf("seed %d: %d backends in the table, want %d", seed, len(count), n)
	}
	if len(former) != len(table) {
		return
	}
	// Compute the least number of slots that must change: all slots of backends that left, the
	// slots of each remaining backend above the larger share, and, if too many backends hold the
	// larger share, one slot of each that is too many.
	had := map[int]int{}
	for _, b := range former {
		had[b]++
	}
	least, large := 0, 0
	for b, c := range had {
		switch {
		case count[b] == 0:
			least += c
		case c > floor:
			least += c - floor - 1
			large++
		}
	}
	least += max(0, large-len(table)%n)
	changed := 0
	for i := range table {
		if table[i] != former[i] {
			changed++
		}
	}
	if changed > least {
		t.Fatalf("seed %d: %d slots changed for %d backends in %d slots, want at most %d", seed, changed, n, len(table), least)
	}
}
