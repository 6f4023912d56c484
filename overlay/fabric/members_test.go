//go:build linux

package fabric

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"swarm/overlay/vxlan"
)

// Whatever comes, goes and moves, in whatever order, and whoever claims another's address meanwhile: the table is the one
// that all who are there make, and what is said to differ is all that differs.
func TestMembers_ChangesMakeWhatAllMake(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	m := newMembers(nil)
	want := map[string]Endpoint{}
	has := vxlan.NewTable(0) // the kernel's
	partly := 0
	for step := range 2000 {
		var there []Endpoint
		var gone []string
		for range rng.IntN(4) {
			there = append(there, someone(rng))
		}
		for range rng.IntN(3) {
			gone = append(gone, fmt.Sprint("t", rng.IntN(40)))
		}
		for _, id := range gone {
			delete(want, id)
		}
		for _, e := range there {
			want[e.TaskID] = e
		}
		about, all := m.change(there, gone)
		if all {
			has = vxlan.Table{Forward: maps.Clone(m.table.Forward), Neighbours: maps.Clone(m.table.Neighbours)}
		} else {
			partly++
			replace(has, about, part(m.table, about))
		}
		full := newMembers(slices.Collect(maps.Values(want))).table
		for what, got := range map[string]vxlan.Table{"the table": m.table, "what is written": has} {
			if !maps.Equal(full.Forward, got.Forward) || !maps.Equal(full.Neighbours, got.Neighbours) {
				t.Fatalf("seed %d, step %d, %v there, %v gone: %s is %v, all members make %v", seed, step, there, gone, what, got, full)
			}
		}
	}
	if partly < 100 {
		t.Errorf("seed %d: %d changes without a conflict: nothing was tested", seed, partly)
	}
}

// someone is one of 40 tasks, with some of 200 addresses; IPv6 ones of different subnets may make the same hardware address.
func someone(rng *rand.Rand) Endpoint {
	e := Endpoint{TaskID: fmt.Sprint("t", rng.IntN(40)), Host: netip.AddrFrom4([4]byte{192, 0, 2, byte(rng.IntN(5))})}
	n := rng.IntN(200)
	if rng.IntN(3) > 0 {
		e.Addresses = append(e.Addresses, netip.AddrFrom4([4]byte{10, 0, 1, byte(n)}))
	}
	if len(e.Addresses) == 0 || rng.IntN(2) > 0 {
		e.Addresses = append(e.Addresses, netip.MustParseAddr(fmt.Sprintf("fd00:%d::%x", rng.IntN(2), n)))
	}
	return e
}
