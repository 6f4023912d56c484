//go:build linux

package fabric_test

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"swarm/overlay/fabric"
	"swarm/overlay/netns"
)

// BenchmarkAttach attaches one more task to a network in use with 10,000 tasks on other hosts.
// BenchmarkFirst creates and removes the network with every task.
func BenchmarkAttach(b *testing.B) { benchmarkAttach(b, true, 10_000) }
func BenchmarkFirst(b *testing.B)  { benchmarkAttach(b, false, 10) }

func benchmarkAttach(b *testing.B, inUse bool, elsewhere int) {
	w := newWorld(b, settings{hosts: 1})
	h := w.hosts[0]
	ctx := context.Background()
	if err := h.f.Sync(ctx, "red", endpoints(elsewhere, 0)); err != nil {
		b.Fatal(err)
	}
	if inUse {
		h.start("keep", red, "10.0.0.2/8")
	}
	pin := filepath.Join(b.TempDir(), "task.ns")
	attachment := fabric.Attachment{Network: red, Netns: pin, Interface: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.3/8")}}
	var detach time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		attachment.TaskID = fmt.Sprint("t", i)
		if err := netns.Create(pin); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		h.do(func() error { return h.f.Attach(ctx, attachment) })
		b.StopTimer()
		start := time.Now()
		h.do(func() error { return h.f.Detach(ctx, attachment.TaskID) })
		detach += time.Since(start)
		if err := netns.Delete(pin); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(detach.Microseconds())/float64(b.N), "us/detach")
}

// endpoints returns n tasks on 20 hosts. The first moved of them are on the next host.
func endpoints(n, moved int) []fabric.Endpoint {
	out := make([]fabric.Endpoint, n)
	for i := range out {
		host := i
		if i < moved {
			host++
		}
		out[i] = fabric.Endpoint{
			TaskID: fmt.Sprint("t", i),
			Addresses: []netip.Addr{
				netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}),
				netip.MustParseAddr(fmt.Sprintf("fd00:1::%x", i+2)),
			},
			Host: netip.AddrFrom4([4]byte{10, 212, 7, byte(100 + host%20)}),
		}
	}
	return out
}

// BenchmarkLoad writes 10,000 endpoints of two families to a network that has none, and
// BenchmarkChange moves one of them.
func BenchmarkLoad(b *testing.B) {
	benchmarkSync(b, func(i int) []fabric.Endpoint { return endpoints(10_000*(1-i%2), 0) })
}

func BenchmarkChange(b *testing.B) {
	benchmarkSync(b, func(i int) []fabric.Endpoint { return endpoints(10_000, i%2) })
}

func benchmarkSync(b *testing.B, set func(int) []fabric.Endpoint) {
	w := newWorld(b, settings{hosts: 1})
	h := w.hosts[0]
	h.start("keep", red, "10.0.0.2/8")
	sets := [2][]fabric.Endpoint{set(0), set(1)}
	if err := h.f.Sync(context.Background(), "red", sets[1]); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		if err := h.f.Sync(context.Background(), "red", sets[i%2]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUpdate is BenchmarkChange with Update instead of Sync.
func BenchmarkUpdate(b *testing.B) {
	w := newWorld(b, settings{hosts: 1})
	h := w.hosts[0]
	h.start("keep", red, "10.0.0.2/8")
	sets := [2][]fabric.Endpoint{endpoints(10_000, 0), endpoints(10_000, 1)}
	if err := h.f.Sync(context.Background(), "red", sets[1]); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		if err := h.f.Update(context.Background(), "red", sets[i%2][:1], nil); err != nil {
			b.Fatal(err)
		}
	}
}
