//go:build linux

package fabric_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"swarm/overlay/fabric"
	"swarm/overlay/netns"
	"swarm/overlay/vxlan"
)

// One network gets each change by Update, another the full set by Sync. The kernel has the same
// entries for both, while tasks that are remote too are attached to this host, and the daemon
// restarts.
func TestUpdate_EqualsSync(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, settings{hosts: 1})
	h := w.hosts[0]
	ctx := context.Background()
	keep := []*task{h.start("r", red, "10.0.1.250/24"), h.start("b", blue, "10.0.1.250/24")}
	var here []*task
	all := map[string]fabric.Endpoint{}
	for step := range 120 {
		var placed []fabric.Endpoint
		var gone []string
		for range rng.IntN(4) {
			e := randomEndpoint(rng)
			placed, all[e.TaskID] = append(placed, e), e
		}
		for range rng.IntN(3) {
			if id := fmt.Sprint("t", rng.IntN(40)); !slices.ContainsFunc(placed, func(e fabric.Endpoint) bool { return e.TaskID == id }) {
				gone = append(gone, id)
				delete(all, id)
			}
		}
		h.do(func() error { return h.f.Update(ctx, "red", placed, gone) })
		switch step % 20 {
		case 7:
			address := fmt.Sprintf("10.0.1.%d/24", rng.IntN(100))
			here = []*task{h.start(fmt.Sprint("r", step), red, address), h.start(fmt.Sprint("b", step), blue, address)}
		case 13:
			for _, k := range here {
				k.stop()
			}
		case 17:
			h.restart(keep[0].attachment, keep[1].attachment)
			h.do(func() error { return h.f.Sync(ctx, "red", slices.Collect(maps.Values(all))) })
		}
		h.do(func() error { return h.f.Sync(ctx, "blue", slices.Collect(maps.Values(all))) })
		want, got := kernelTable(t, h, "blue"), kernelTable(t, h, "red")
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Fatalf("seed %d, step %d, %v placed and %v gone: kernel entries differ, -sync +update:\n%s", seed, step, placed, gone, diff)
		}
	}
}

// randomEndpoint returns one of 40 tasks, with one of 100 addresses of each family.
func randomEndpoint(rng *rand.Rand) fabric.Endpoint {
	n := rng.IntN(100)
	return fabric.Endpoint{
		TaskID: fmt.Sprint("t", rng.IntN(40)), Host: netip.AddrFrom4([4]byte{10, 212, 7, byte(100 + rng.IntN(5))}),
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 1, byte(n)}), netip.MustParseAddr(fmt.Sprintf("fd00:1::%x", n))},
	}
}

// kernelTable reads the entries for other hosts from the kernel.
func kernelTable(t *testing.T, h *host, network string) vxlan.Table {
	t.Helper()
	ns, err := netns.Open(h.pins() + "/" + network)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var link netlink.Link
	if err := ns.Do(func() (err error) { link, err = netlink.LinkByName("vxlan"); return err }); err != nil {
		t.Fatal(err)
	}
	entries, err := vxlan.Open(ns, link.Attrs().Index, true)
	if err != nil {
		t.Fatal(err)
	}
	defer entries.Close()
	table, err := entries.Read()
	if err != nil {
		t.Fatal(err)
	}
	return table
}
