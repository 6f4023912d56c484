package origin_test

import (
	"net"
	"net/netip"
	"testing"

	"swarm/internal/origin"
)

func TestOf(t *testing.T) {
	tcp := func(text string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(text)) }
	for _, c := range []struct {
		addr net.Addr
		want string
	}{
		{tcp("192.0.2.7:1"), "192.0.2.7/32"},
		{tcp("[::ffff:192.0.2.7]:1"), "192.0.2.7/32"},
		{tcp("[2001:db8:1:2:3:4:5:6]:1"), "2001:db8:1:2::/64"},
		{tcp("[fe80::1%eth0]:1"), "fe80::/64"},
		{net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.7:1")), "192.0.2.7/32"},
		{&net.IPAddr{IP: net.IPv4(192, 0, 2, 7)}, "invalid Prefix"},
		{&net.UnixAddr{Name: "/run/x.sock", Net: "unix"}, "invalid Prefix"},
		{nil, "invalid Prefix"},
	} {
		if got := origin.Of(c.addr).String(); got != c.want {
			t.Errorf("Of(%v) = %s, want %s", c.addr, got, c.want)
		}
	}
}
