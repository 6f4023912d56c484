package directory

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"swarm/internal/publish"
	swarmv1 "swarm/proto/swarm/v1"
)

// Peer is where a node is.
type Peer struct {
	ID, Hostname string
	// Underlay is where VXLAN packets go.
	Underlay netip.Addr
	// Mesh addresses, at most one of each family.
	Mesh []netip.Prefix
	// Others are further addresses of the node.
	Others []netip.Addr
	// Port is the node's for the cluster.
	Port uint16
}

func peerOf(p *swarmv1.Peering) Peer {
	out := Peer{ID: p.GetNodeId(), Hostname: p.GetHostname()}
	out.Underlay, _ = netip.ParseAddr(p.GetAddr()) // The zero address: not yet reachable.
	for _, a := range p.GetMeshAddresses() {
		if prefix, err := netip.ParsePrefix(a); err == nil {
			out.Mesh = append(out.Mesh, prefix)
		}
	}
	out.Others = parseAddrs(p.GetOthers())
	out.Port = uint16(p.GetPort())
	return out
}

// parseAddrs leaves out what is no address.
func parseAddrs(texts []string) (out []netip.Addr) {
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			out = append(out, addr)
		}
	}
	return out
}

func (p Peer) equal(o Peer) bool {
	return p.ID == o.ID && p.Hostname == o.Hostname && p.Underlay == o.Underlay && slices.Equal(p.Mesh, o.Mesh) &&
		slices.Equal(p.Others, o.Others) && p.Port == o.Port
}

// Peers lists all nodes, this one among them, by id.
func (d *Directory) Peers() []Peer {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]Peer, 0, len(d.peers))
	for _, p := range d.peers {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Peer) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Member is a task's place on one network.
type Member struct {
	TaskID    string
	NodeID    string
	Addresses []netip.Addr
	// Underlay of its node.
	Underlay netip.Addr
}

// Remote lists the members of a network on other nodes, by task; those of a node whose place is not known are left out.
func (d *Directory) Remote(network string) []Member {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Member
	for id := range d.members[network] {
		if m, ok := d.remote(network, id); ok {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.TaskID, b.TaskID) })
	return out
}

// RemoteOf tells which of some tasks are among a network's Remote, and which are not.
func (d *Directory) RemoteOf(network string, tasks map[string]bool) (there []Member, gone []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(tasks)) {
		if m, ok := d.remote(network, id); ok {
			there = append(there, m)
		} else {
			gone = append(gone, id)
		}
	}
	return there, gone
}

func (d *Directory) remote(network, id string) (Member, bool) {
	t := d.members[network][id]
	if t == nil || t.GetNodeId() == d.self {
		return Member{}, false
	}
	peer := d.peers[t.GetNodeId()]
	return Member{TaskID: id, NodeID: peer.ID, Addresses: t.addresses[network], Underlay: peer.Underlay}, peer.Underlay.IsValid()
}

// Backend is a task of a service.
type Backend struct {
	*swarmv1.Backend
	// Addresses by network.
	Addresses map[string][]netip.Addr
	// Local: on this node.
	Local bool
	// Live: new connections may go there.
	Live bool
}

// Service is a service as this node may use it.
type Service struct {
	ID       string
	Name     string
	Endpoint *swarmv1.Endpoint
	// VIPs by network.
	VIPs map[string][]netip.Prefix
	// Aliases by network, of all that the service is on.
	Aliases map[string][]string
	// Tasks are all, by task id; Backends are the live ones of them.
	Tasks, Backends []Backend
}

// Service returns a service; false: it is gone.
func (d *Directory) Service(id string) (Service, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.services[id]
	if s == nil || s.routing == nil {
		return Service{ID: id}, false
	}
	all := make([]Backend, 0, len(s.tasks))
	for _, t := range s.tasks {
		all = append(all, Backend{Backend: t.Backend, Addresses: t.addresses, Local: t.GetNodeId() == d.self})
	}
	slices.SortFunc(all, func(a, b Backend) int { return cmp.Compare(a.GetTaskId(), b.GetTaskId()) })
	live := d.live(all)
	return Service{
		ID: id, Name: s.routing.GetName(), Endpoint: s.routing.GetEndpoint(), VIPs: s.vips, Aliases: s.aliases,
		Tasks: all, Backends: live,
	}, true
}

// ServiceOf returns the service that a task is of; false: the task or its service is not known.
func (d *Directory) ServiceOf(task string) (Service, bool) {
	d.mu.Lock()
	t := d.tasks[task]
	d.mu.Unlock()
	if t == nil {
		return Service{}, false
	}
	return d.Service(t.GetServiceId())
}

// ServicesOn lists the services that have names, an address or a task on a network, by id.
func (d *Directory) ServicesOn(network string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for id, s := range d.services {
		if s.routing != nil && s.on(network) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

func (s *service) on(network string) bool {
	if _, ok := s.aliases[network]; ok || len(s.vips[network]) > 0 {
		return true
	}
	for _, t := range s.tasks {
		if len(t.addresses[network]) > 0 {
			return true
		}
	}
	return false
}

// Published lists the services that publish a port on more than the task's own node, by id.
func (d *Directory) Published() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for id, s := range d.services {
		if slices.ContainsFunc(s.routing.GetEndpoint().GetPorts(), publish.ByMesh) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// Self is this node; false: the managers have not said where it is, or it has no place on the mesh yet.
func (d *Directory) Self() (Peer, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.peers[d.self]
	return p, p.meshed()
}

// meshed reports whether the routing mesh can reach the node.
func (p Peer) meshed() bool { return p.Underlay.IsValid() && len(p.Mesh) > 0 }

// Mesh lists the other nodes that the routing mesh can reach, by id.
func (d *Directory) Mesh() []Peer {
	return slices.DeleteFunc(d.Peers(), func(p Peer) bool { return p.ID == d.self || !p.meshed() })
}

// Ingress is the network of the routing mesh; nil: the managers have not told of it yet.
func (d *Directory) Ingress() *swarmv1.Network {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range d.networks {
		if n.GetSpec().GetIngress() {
			return n
		}
	}
	return nil
}

// Meshed reports whether the service publishes a port on more than its tasks' own nodes.
func (s Service) Meshed() bool { return slices.ContainsFunc(s.Endpoint.GetPorts(), publish.ByMesh) }

// Networks lists the networks on which the service has names, an address or a task, in order.
func (s Service) Networks() []string {
	on := map[string]bool{}
	for id := range s.Aliases {
		on[id] = true
	}
	for id := range s.VIPs {
		on[id] = true
	}
	for _, b := range s.Tasks {
		for id := range b.Addresses {
			on[id] = true
		}
	}
	return slices.Sorted(maps.Keys(on))
}
