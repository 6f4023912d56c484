package ca

import (
	"net/netip"
	"strings"
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// FuzzCheckHost checks that a host's report of itself forges no table row, and has one spelling.
func FuzzCheckHost(f *testing.F) {
	f.Add("node-1", "0123456789abcdef", "10.0.0.2", "", "v1", uint32(2377), int32(0))
	f.Add("a\nb", "\x1b[2J", "::ffff:10.0.0.1", "fe80::1%eth0", "\x00", uint32(1<<17), int32(-1))
	view := table.ViewOf(&swarmv1.Node{Id: "m1", Addr: "10.0.0.1", Spec: &swarmv1.NodeSpec{Role: swarmv1.NodeSpec_MANAGER}})
	f.Fuzz(func(t *testing.T, hostname, machine, addr, data, build string, port uint32, availability int32) {
		req := &swarmv1.JoinRequest{
			Hostname: hostname, MachineId: machine, Addr: addr, DataPathAddr: data, Build: build, Port: port,
			Availability: swarmv1.NodeSpec_Availability(availability),
		}
		err := checkHost(view, req)
		if err != nil {
			if text := err.Error(); len(text) > 2000 || strings.ContainsAny(text, "\n\x1b\x00") {
				t.Errorf("the refusal repeats what the host said: %q", text)
			}
			return
		}
		for _, s := range []string{hostname, machine, addr, data, build} {
			if len(s) > 253 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%q is taken", s)
			}
		}
		if a := netip.MustParseAddr(addr); a.String() != addr || a.Is4In6() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() {
			t.Errorf("address %q is taken", addr)
		}
	})
}
