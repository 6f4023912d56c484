//go:build linux

package hostnet_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"swarm/overlay/hostnet"
)

func TestChoose_SkipsOverlapsInBothDirections(t *testing.T) {
	p := netip.MustParsePrefix
	candidates := []netip.Prefix{p("172.30.0.0/16"), p("172.31.0.0/16"), p("192.168.64.0/20")}
	tests := []struct {
		name string
		used []netip.Prefix
		want string
	}{
		{"nothing used", nil, "172.30.0.0/16"},
		{"a narrower route inside", []netip.Prefix{p("172.30.7.0/24")}, "172.31.0.0/16"},
		{"a wider route around", []netip.Prefix{p("172.16.0.0/12")}, "192.168.64.0/20"},
		{"the other family", []netip.Prefix{p("fd00::/8")}, "172.30.0.0/16"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := hostnet.Choose(tt.used, slices.Values(candidates))
			if err != nil || got != p(tt.want) {
				t.Fatalf("Choose(%v) = %v, %v, want %s", tt.used, got, err, tt.want)
			}
		})
	}
	_, err := hostnet.Choose([]netip.Prefix{p("172.16.0.0/12"), p("192.168.0.0/16")}, slices.Values(candidates))
	if !errors.Is(err, errdefs.ErrResourceExhausted) {
		t.Fatalf("all taken: got %v, want resource exhausted", err)
	}
}

func TestNthAndMAC(t *testing.T) {
	p := netip.MustParsePrefix("10.213.0.0/16")
	if got := hostnet.Nth(p, 257); got != netip.MustParseAddr("10.213.1.1") {
		t.Errorf("Nth(%s, 257) = %s", p, got)
	}
	if got := hostnet.MAC(0x53, netip.MustParseAddr("10.213.1.1")).String(); got != "02:53:0a:d5:01:01" {
		t.Errorf("MAC = %s", got)
	}
}
