//go:build linux

package exec

import (
	"slices"
	"testing"
)

func TestParseDescent(t *testing.T) {
	for _, c := range []struct {
		stat string
		want descent
		ok   bool
	}{
		{"12 (sleep) S 5 12 7 0 -1 4194560", descent{5, 7}, true},
		{"12 (a) S 1 1 1 (b) R 5 12 7 0", descent{5, 7}, true}, // A process may choose its name.
		{"12 (a b) Z 5 12 7 0", descent{}, false},
		{"12 (a) S 5", descent{}, false},
		{"", descent{}, false},
	} {
		if got, ok := parseDescent(c.stat); got != c.want || ok != c.ok {
			t.Errorf("parseDescent(%q) = %v, %v, want %v, %v", c.stat, got, ok, c.want, c.ok)
		}
	}
}

func TestKin(t *testing.T) {
	processes := map[int]descent{
		1:  {0, 1},  // the container's first process
		10: {0, 10}, // the exec
		11: {10, 10},
		12: {1, 10},  // its parent has ended
		13: {11, 13}, // has a session of its own
		14: {13, 13},
		20: {1, 1},
	}
	look := func(pid int) (descent, bool) {
		d, ok := processes[pid]
		return d, ok
	}
	got := kin(map[int]bool{10: true}, []int{1, 14, 13, 12, 11, 10, 20, 99}, look)
	slices.Sort(got)
	if want := []int{10, 11, 12, 13, 14}; !slices.Equal(got, want) {
		t.Errorf("kin = %v, want %v", got, want)
	}
}
