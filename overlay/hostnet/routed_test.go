//go:build linux

package hostnet_test

import (
	"net/netip"
	"slices"
	"testing"

	"swarm/overlay/hostnet"
)

func TestWidest(t *testing.T) {
	p := netip.MustParsePrefix
	got := hostnet.Widest([]netip.Prefix{
		p("192.168.1.0/24"), p("10.0.7.0/24"), p("10.0.0.0/16"), p("127.0.0.0/8"), p("fe80::/64"), p("fd00::/64"), p("224.0.0.0/4"), p("10.0.7.9/32"),
	})
	if want := []netip.Prefix{p("10.0.0.0/16"), p("192.168.1.0/24"), p("fd00::/64")}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRouted_HasNoDefaultRoute(t *testing.T) {
	got, err := hostnet.Routed("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range got {
		if p.Bits() == 0 || p.Addr().IsLoopback() {
			t.Errorf("%s is among the routed ranges %v", p, got)
		}
	}
}
