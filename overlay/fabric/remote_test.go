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

// After any changes, in any order, and with addresses that several tasks claim, the table is the
// one that newRemoteTasks builds for the present tasks, and only the entries of the endpoints that
// apply returned differ.
func TestRemoteTasks_ApplyEqualsRebuild(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	m := newRemoteTasks(nil)
	want := map[string]Endpoint{}
	kernel := vxlan.NewTable(0) // as it would be written
	partial := 0
	for step := range 2000 {
		var placed []Endpoint
		var gone []string
		for range rng.IntN(4) {
			placed = append(placed, randomEndpoint(rng))
		}
		for range rng.IntN(3) {
			gone = append(gone, fmt.Sprint("t", rng.IntN(40)))
		}
		for _, id := range gone {
			delete(want, id)
		}
		for _, e := range placed {
			want[e.TaskID] = e
		}
		changed, all := m.apply(placed, gone)
		if all {
			kernel = vxlan.Table{Forward: maps.Clone(m.table.Forward), Neighbours: maps.Clone(m.table.Neighbours)}
		} else {
			partial++
			replace(kernel, changed, subset(m.table, changed))
		}
		full := newRemoteTasks(slices.Collect(maps.Values(want))).table
		for what, got := range map[string]vxlan.Table{"the table": m.table, "the kernel": kernel} {
			if !maps.Equal(full.Forward, got.Forward) || !maps.Equal(full.Neighbours, got.Neighbours) {
				t.Fatalf("seed %d, step %d, %v placed, %v gone: %s has %v, want %v", seed, step, placed, gone, what, got, full)
			}
		}
	}
	if partial < 100 {
		t.Errorf("seed %d: %d changes without a conflict, want at least 100", seed, partial)
	}
}

// randomEndpoint returns one of 40 tasks with some of 200 addresses. IPv6 addresses of different
// subnets may give the same hardware address.
func randomEndpoint(rng *rand.Rand) Endpoint {
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
