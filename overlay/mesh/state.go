//go:build linux

package mesh

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"swarm/overlay/hostnet"
	"swarm/overlay/hostport"
	"swarm/overlay/nft"
)

// State is all that the mesh of a host has to know.
type State struct {
	Self  Node
	Peers []Node
	Ports []Published
}

// Node is a host of the mesh.
type Node struct {
	ID string
	// Underlay is where the host's VXLAN packets go.
	Underlay netip.Addr
	// Mesh is the host's address on the network `ingress`, or one of each family. The last 16 bits tell hosts apart.
	Mesh []netip.Prefix
	// Others are further addresses of the host. When a program there asks another host and the backend is at home, the answer
	// could not be told from a local packet: the asked host steps in between, for Underlay and for these.
	Others []netip.Addr
}

func (n Node) equal(o Node) bool {
	return n.ID == o.ID && n.Underlay == o.Underlay && slices.Equal(n.Mesh, o.Mesh) && slices.Equal(n.Others, o.Others)
}

// address of the node on the mesh in a family; not valid when it has none.
func (n Node) address(f nft.Family) netip.Addr {
	for _, p := range n.Mesh {
		if f.Of(p.Addr()) {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

func (n Node) addresses() (out []netip.Addr) {
	for _, p := range n.Mesh {
		out = append(out, p.Addr())
	}
	return out
}

// mac is derived from the first address: an entry of a former holder is right or unused.
func (n Node) mac() net.HardwareAddr {
	b := n.Mesh[0].Addr().AsSlice()
	return hostnet.MAC(macMesh, netip.AddrFrom4([4]byte(b[len(b)-4:])))
}

const macMesh = 0x42

// Marks of connections and packets tell by which host they came: our 16 bits, and those of the host's address.
const (
	markOurs = 0x5357_0000
	markMask = 0xffff_0000
)

func (n Node) mark() uint32 {
	b := n.Mesh[0].Addr().AsSlice()
	return markOurs | uint32(binary.BigEndian.Uint16(b[len(b)-2:]))
}

// Port is one that all hosts answer at.
type Port struct {
	// IP limits the port to the host that has this address; the zero value is all addresses of all hosts.
	IP        netip.Addr
	Published uint16
	// Protocol is "tcp", "udp" or "sctp".
	Protocol string
}

func (p Port) String() string { return fmt.Sprintf("%d/%s", p.Published, p.Protocol) }

// Published says who answers at a port.
type Published struct {
	Port
	// Target in the containers.
	Target uint16
	// Number that hosts send each other the port's packets to; 0: Published. A port on one address has its own where another
	// is published by the same number, on another address.
	Number uint16
	// Local ports answer only on hosts with a backend, and only with backends there (mode=local).
	Local    bool
	Backends []Backend
	// Standby are containers of this host that are no backends. Other hosts may not know yet that one is no backend any more,
	// or know before this one that it is: what they send is taken there while no backend is here. Without any, it is sent on.
	Standby []Backend
}

func (p Published) number() uint16 {
	if p.Number != 0 {
		return p.Number
	}
	return p.Published
}

// Backend is a container that may receive new connections.
type Backend struct {
	// Node is the id of its host.
	Node string
	// Addresses on the bridge of this host, at most one of each family; not used for backends of other hosts.
	Addresses []netip.Addr
}

// Conflict is a port that this host cannot answer at, and why: the error names the program in the way.
type Conflict struct {
	Port
	Err error
	// Elsewhere: the port is on one address, which this host has not, or not yet.
	Elsewhere bool
}

func (s *State) validate() error {
	for _, n := range append([]Node{s.Self}, s.Peers...) {
		if n.ID == "" || len(n.Mesh) == 0 || len(n.Mesh) > 2 || !n.Underlay.IsValid() {
			return fmt.Errorf("routing mesh: node %q: give id, address, and one or two addresses on the mesh: %w", n.ID, errdefs.ErrInvalidArgument)
		}
	}
	seen := make(map[Port]bool, len(s.Ports))
	for _, p := range s.Ports {
		if hostport.Number(p.Protocol) == 0 || p.Published == 0 || p.Target == 0 || seen[p.Port] {
			return fmt.Errorf("routing mesh: port %s: give each once, with protocol and target: %w", p, errdefs.ErrInvalidArgument)
		}
		seen[p.Port] = true
	}
	slices.SortFunc(s.Peers, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	return nil
}

// target is a place in a slots table. A host with several backends has as many.
type target struct {
	to netip.AddrPort
	n  int
}

func compareTargets(a, b target) int {
	return cmp.Or(a.to.Compare(b.to), cmp.Compare(a.n, b.n))
}

// tables spells out who answers where. A port that this host does not hold is left to who does, but backends here still
// serve the other hosts.
func (s State) tables(held map[Port]*hostport.Held) desired {
	d := desired{entries: make(map[entry][]target), peers: s.Peers}
	peers := make(map[string]Node, len(s.Peers))
	for _, p := range s.Peers {
		peers[p.ID] = p
	}
	for _, p := range s.Ports {
		_, answers := held[p.Port]
		if answers {
			d.held = append(d.held, p.Port)
		}
		for i, f := range nft.Families() {
			here, all := p.targets(f, s.Self, peers)
			taken := here
			if len(taken) == 0 {
				taken, _ = Published{Port: p.Port, Target: p.Target, Backends: p.Standby}.targets(f, s.Self, nil)
			}
			if len(taken) > 0 {
				d.entries[entry{kindHere, i, Port{Published: p.number(), Protocol: p.Protocol}}] = taken
			}
			if p.Local {
				all = here
			}
			switch {
			case !answers || len(all) == 0:
			case !p.IP.IsValid():
				d.entries[entry{kindAny, i, p.Port}] = all
			case f.Of(p.IP):
				d.entries[entry{kindOne, i, p.Port}] = all
			}
		}
	}
	return d
}

// targets lists backends on this host by their own addresses, and on others by their host's.
func (p Published) targets(f nft.Family, self Node, peers map[string]Node) (here, all []target) {
	count := make(map[netip.AddrPort]int)
	for _, b := range p.Backends {
		if b.Node == self.ID {
			for _, a := range b.Addresses {
				if f.Of(a) {
					here = append(here, target{to: netip.AddrPortFrom(a, p.Target)})
				}
			}
			continue
		}
		if a := peers[b.Node].address(f); a.IsValid() {
			to := netip.AddrPortFrom(a, p.number())
			all = append(all, target{to, count[to]})
			count[to]++
		}
	}
	all = append(all, here...)
	slices.SortFunc(here, compareTargets)
	slices.SortFunc(all, compareTargets)
	return slices.Compact(here), slices.Compact(all)
}

// hold takes the ports that are to answer here, and lets go of the others.
func (m *Mesh) hold(ports []Published) ([]Conflict, error) {
	var errs []error
	wanted := make(map[Port]bool, len(ports))
	for _, p := range ports {
		wanted[p.Port] = true
	}
	for p, h := range m.books {
		if !wanted[p] {
			errs = append(errs, h.Close())
			delete(m.books, p)
		}
	}
	var conflicts []Conflict
	for _, p := range ports {
		if _, ok := m.books[p.Port]; ok {
			continue
		}
		c, err := hostport.Hold(p.Protocol, p.IP, p.Published)
		switch {
		case err == nil:
			m.books[p.Port] = c
		default:
			conflicts = append(conflicts, Conflict{p.Port, err, p.IP.IsValid() && errdefs.IsInvalidArgument(err)})
		}
	}
	return conflicts, errors.Join(errs...)
}

// listen is for ports that the rules know. One that another program has got meanwhile is left to it by the next Sync.
func (m *Mesh) listen() []Conflict {
	var conflicts []Conflict
	for p, h := range m.books {
		if err := h.Listen(); err != nil {
			conflicts = append(conflicts, Conflict{Port: p, Err: errors.Join(err, h.Close())})
			delete(m.books, p)
		}
	}
	return conflicts
}
