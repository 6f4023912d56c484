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

// State is the desired state of the mesh on one host.
type State struct {
	Self  Node
	Peers []Node
	Ports []Published
}

// Node is a host of the mesh.
type Node struct {
	ID string
	// Underlay is the address to which VXLAN packets for the host go.
	Underlay netip.Addr
	// Mesh has one or two addresses of the host on the network `ingress`, at most one of each
	// family. The last 16 bits of the first address must be unique among the hosts.
	Mesh []netip.Prefix
	// Others are further addresses of the host. They are needed if a program on host A connects to
	// a port at host B, and B forwards the connection to a backend on A. The answer must return
	// through B, but A would deliver it locally, because it goes to an address of A. So B
	// masquerades a connection that comes from Underlay or Others of A and goes back to A.
	Others []netip.Addr
}

func (n Node) equal(o Node) bool {
	return n.ID == o.ID && n.Underlay == o.Underlay && slices.Equal(n.Mesh, o.Mesh) && slices.Equal(n.Others, o.Others)
}

// address returns the node's address on the mesh in a family. It is not valid if the node has none.
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

// mac returns a hardware address that derives from the first mesh address. So an old neighbour
// entry for the address stays correct if another node gets the address.
func (n Node) mac() net.HardwareAddr {
	b := n.Mesh[0].Addr().AsSlice()
	return hostnet.MAC(macMesh, netip.AddrFrom4([4]byte(b[len(b)-4:])))
}

const macMesh = 0x42

// A mark of a connection or a packet says through which host the connection came. Its upper 16 bits
// are markOurs, its lower 16 bits are the last bits of the host's first mesh address.
const (
	markOurs = 0x5357_0000
	markMask = 0xffff_0000
)

// mark returns the mark of connections that come through the node.
func (n Node) mark() uint32 {
	b := n.Mesh[0].Addr().AsSlice()
	return markOurs | uint32(binary.BigEndian.Uint16(b[len(b)-2:]))
}

// Port is a published port. All hosts answer at it.
type Port struct {
	// IP limits the port to the host that has this address. The zero value means all addresses of
	// all hosts.
	IP        netip.Addr
	Published uint16
	// Protocol is "tcp", "udp" or "sctp".
	Protocol string
}

func (p Port) String() string { return fmt.Sprintf("%d/%s", p.Published, p.Protocol) }

// Published is a port with its backends.
type Published struct {
	Port
	// Target is the port in the containers.
	Target uint16
	// MeshPort is the port to which a host forwards the packets to another host. Zero means
	// Published. Ports with the same Published on different addresses need different values.
	MeshPort uint16
	// Local ports answer only on hosts with a backend, and use only the backends there
	// (mode=local).
	Local    bool
	Backends []Backend
	// Standby are containers of this host that are not backends now: they were backends, or will be
	// soon. Other hosts learn of a change later or earlier than this host, so they may forward
	// connections for one of these containers to this host. If this host has no backend, the
	// standby containers take these connections. If it has neither, it forwards the connections to
	// another host, provided that the mesh port is the published port and the port is published on
	// all addresses; it rejects the others.
	Standby []Backend
}

// meshPort returns the port to which a host forwards the packets to another host.
func (p Published) meshPort() uint16 {
	if p.MeshPort != 0 {
		return p.MeshPort
	}
	return p.Published
}

// Backend is a container that may receive new connections.
type Backend struct {
	// Node is the ID of its host.
	Node string
	// Addresses are the container's addresses on the bridge of this host, at most one of each
	// family. They are not used for backends on other hosts.
	Addresses []netip.Addr
}

// Conflict is a port at which this host cannot answer. Err says why; it names the program that uses
// the port.
type Conflict struct {
	Port
	Err error
	// AddressMissing says that the port is limited to an address which this host does not have.
	AddressMissing bool
}

// validate returns ErrInvalidArgument if a node or a port is invalid, or if a port is listed twice.
func (s State) validate() error {
	for _, n := range append([]Node{s.Self}, s.Peers...) {
		if n.ID == "" || len(n.Mesh) == 0 || len(n.Mesh) > 2 || !n.Underlay.IsValid() {
			return fmt.Errorf("routing mesh: node %q: give an ID, an address, and one or two addresses on the mesh: %w", n.ID, errdefs.ErrInvalidArgument)
		}
	}
	seen := make(map[Port]bool, len(s.Ports))
	for _, p := range s.Ports {
		if hostport.Number(p.Protocol) == 0 || p.Published == 0 || p.Target == 0 || seen[p.Port] {
			return fmt.Errorf("routing mesh: port %s: give each once, with protocol and target: %w", p, errdefs.ErrInvalidArgument)
		}
		seen[p.Port] = true
	}
	return nil
}

// target is a destination of a port, and the content of a slot. A host with several backends is one
// target for each of them; n numbers these targets.
type target struct {
	to netip.AddrPort
	n  int
}

func compareTargets(a, b target) int {
	return cmp.Or(a.to.Compare(b.to), cmp.Compare(a.n, b.n))
}

// content returns the desired content of the nftables table. This host answers only at the ports
// that have a socket. Its backends of the other ports still serve the other hosts.
func (s State) content(sockets map[Port]*hostport.Reservation) content {
	d := content{entries: make(map[entry][]target), peers: s.Peers}
	peers := make(map[string]Node, len(s.Peers))
	for _, p := range s.Peers {
		peers[p.ID] = p
	}
	for _, p := range s.Ports {
		_, held := sockets[p.Port]
		if held {
			d.held = append(d.held, p.Port)
		}
		for i, f := range nft.Families() {
			here, all := p.targets(f, s.Self, peers)
			fromPeers := here
			if len(fromPeers) == 0 {
				fromPeers, _ = Published{Port: p.Port, Target: p.Target, Backends: p.Standby}.targets(f, s.Self, nil)
			}
			if len(fromPeers) > 0 {
				d.entries[entry{kindHere, i, Port{Published: p.meshPort(), Protocol: p.Protocol}}] = fromPeers
			}
			if p.Local {
				all = here
			}
			switch {
			case !held || len(all) == 0:
			case !p.IP.IsValid():
				d.entries[entry{kindAny, i, p.Port}] = all
			case f.Of(p.IP):
				d.entries[entry{kindOne, i, p.Port}] = all
			}
		}
	}
	return d
}

// targets returns the destinations of a port. here has the backends on this host, each with its
// address on the bridge. all has these and the backends on other hosts, each with the mesh address
// of its host.
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
			to := netip.AddrPortFrom(a, p.meshPort())
			all = append(all, target{to, count[to]})
			count[to]++
		}
	}
	all = append(all, here...)
	slices.SortFunc(here, compareTargets)
	slices.SortFunc(all, compareTargets)
	return slices.Compact(here), slices.Compact(all)
}

// holdPorts binds the ports in the list and releases all others.
func (m *Mesh) holdPorts(ports []Published) ([]Conflict, error) {
	var errs []error
	wanted := make(map[Port]bool, len(ports))
	for _, p := range ports {
		wanted[p.Port] = true
	}
	for p, h := range m.sockets {
		if !wanted[p] {
			errs = append(errs, h.Close())
			delete(m.sockets, p)
		}
	}
	var conflicts []Conflict
	for _, p := range ports {
		if _, ok := m.sockets[p.Port]; ok {
			continue
		}
		c, err := hostport.Reserve(p.Protocol, p.IP, p.Published)
		switch {
		case err == nil:
			m.sockets[p.Port] = c
		default:
			conflicts = append(conflicts, Conflict{p.Port, err, p.IP.IsValid() && errdefs.IsInvalidArgument(err)})
		}
	}
	return conflicts, errors.Join(errs...)
}

// listen starts listening at the ports. The caller has written the rules that redirect or reject
// all connections to these ports, so that the sockets get none. If another program has bound a port
// since holdPorts, listen releases the port and returns a conflict.
func (m *Mesh) listen() []Conflict {
	var conflicts []Conflict
	for p, h := range m.sockets {
		if err := h.Listen(); err != nil {
			conflicts = append(conflicts, Conflict{Port: p, Err: errors.Join(err, h.Close())})
			delete(m.sockets, p)
		}
	}
	return conflicts
}
