//go:build linux

package mesh

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"swarm/overlay/hostport"
)

// Hosts learn of a change at different times: a host still, or already, accepts what a host with
// older state forwards to it.
func TestDesired_StandbyServesOtherHostsAlone(t *testing.T) {
	node := func(id, mesh string) Node { return Node{ID: id, Mesh: []netip.Prefix{netip.MustParsePrefix(mesh)}} }
	here, there := Backend{Node: "n1", Addresses: []netip.Addr{netip.MustParseAddr("172.30.0.9")}}, Backend{Node: "n2"}
	for _, tt := range []struct {
		name              string
		local             bool
		backends, standby []Backend
		want              map[string]string // by kind
		number            uint16            // between hosts
	}{
		{"a backend here", false, []Backend{here, there}, nil, map[string]string{"here": "172.30.0.9:80", "any": "10.0.0.3:8080 172.30.0.9:80"}, 0},
		{"a number of its own between hosts", false, []Backend{here, there}, nil, map[string]string{"here": "172.30.0.9:80 for 65535", "any": "10.0.0.3:65535 172.30.0.9:80"}, 65535},
		{"withdrawn here", false, []Backend{there}, []Backend{here}, map[string]string{"here": "172.30.0.9:80", "any": "10.0.0.3:8080"}, 0},
		{"the last one is withdrawn", false, nil, []Backend{here}, map[string]string{"here": "172.30.0.9:80"}, 0},
		{"withdrawn, local", true, []Backend{there}, []Backend{here}, map[string]string{"here": "172.30.0.9:80"}, 0},
		{"nobody here", false, []Backend{there}, nil, map[string]string{"any": "10.0.0.3:8080"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := Published{Port: Port{Published: 8080, Protocol: "tcp"}, Target: 80, MeshPort: tt.number, Local: tt.local, Backends: tt.backends, Standby: tt.standby}
			s := State{Self: node("n1", "10.0.0.2/24"), Peers: []Node{node("n2", "10.0.0.3/24")}, Ports: []Published{p}}
			got := map[string]string{}
			for e, targets := range s.content(map[Port]*hostport.Reservation{p.Port: {}}).entries {
				text := ""
				for _, target := range targets {
					if text != "" {
						text += " "
					}
					text += target.to.String()
				}
				if e.port.Published != p.Published {
					text += fmt.Sprintf(" for %d", e.port.Published)
				}
				got[e.kind.String()] = text
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got: %s", diff)
			}
		})
	}
}
