package directory

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"swarm/internal/publish"
	swarmv1 "swarm/proto/swarm/v1"
)

// Node is a node and its addresses.
type Node struct {
	ID, Hostname string
	// Underlay is the address to which VXLAN packets go. It is the zero address if the node cannot
	// be reached yet.
	Underlay netip.Addr
	// Mesh has the addresses on the ingress network, at most one of each family.
	Mesh []netip.Prefix
	// Others has further addresses of the node.
	Others []netip.Addr
	// Port is the TCP port of the cluster's API on the node.
	Port uint16
}

func nodeOf(p *swarmv1.Peering) Node {
	out := Node{ID: p.GetNodeId(), Hostname: p.GetHostname()}
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

// parseAddrs parses addresses. It leaves out texts that are not addresses.
func parseAddrs(texts []string) (out []netip.Addr) {
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			out = append(out, addr)
		}
	}
	return out
}

func (n Node) equal(o Node) bool {
	return n.ID == o.ID && n.Hostname == o.Hostname && n.Underlay == o.Underlay && slices.Equal(n.Mesh, o.Mesh) &&
		slices.Equal(n.Others, o.Others) && n.Port == o.Port
}

// Nodes returns all nodes, this node included, sorted by id.
func (d *Directory) Nodes() []Node {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]Node, 0, len(d.nodes))
	for _, n := range d.nodes {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Endpoint is a task on one network. It has nothing to do with Service.Endpoint, which has the
// published ports and the virtual addresses of a service.
type Endpoint struct {
	TaskID    string
	NodeID    string
	Addresses []netip.Addr
	// Underlay is the address to which VXLAN packets for the task's node go.
	Underlay netip.Addr
}

// Remote returns the endpoints of a network on other nodes, sorted by task id. It leaves out the
// endpoints on nodes without an underlay address.
func (d *Directory) Remote(network string) []Endpoint {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Endpoint
	for id := range d.endpoints[network] {
		if m, ok := d.remote(network, id); ok {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b Endpoint) int { return cmp.Compare(a.TaskID, b.TaskID) })
	return out
}

// RemoteOf returns the endpoints of some tasks on a network. remote has the endpoints that Remote
// would return. gone has the ids of the tasks that Remote would not return. Both are sorted by task
// id.
func (d *Directory) RemoteOf(network string, tasks map[string]bool) (remote []Endpoint, gone []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(tasks)) {
		if m, ok := d.remote(network, id); ok {
			remote = append(remote, m)
		} else {
			gone = append(gone, id)
		}
	}
	return remote, gone
}

func (d *Directory) remote(network, id string) (Endpoint, bool) {
	t := d.endpoints[network][id]
	if t == nil || t.GetNodeId() == d.self {
		return Endpoint{}, false
	}
	node := d.nodes[t.GetNodeId()]
	return Endpoint{TaskID: id, NodeID: node.ID, Addresses: t.addresses[network], Underlay: node.Underlay}, node.Underlay.IsValid()
}

// Task is a task of a service.
type Task struct {
	*swarmv1.Backend
	// Addresses has the addresses of the task by network id.
	Addresses map[string][]netip.Addr
	// Local says that the task is on this node.
	Local bool
	// Live says that new connections may go to the task: the managers say that it is ready, and its
	// node is not dead. If all ready tasks of the service are on dead nodes, all of them are Live.
	Live bool
}

// Service is a service as this node knows it.
type Service struct {
	ID       string
	Name     string
	Endpoint *swarmv1.Endpoint
	// VIPs has the virtual addresses by network id.
	VIPs map[string][]netip.Prefix
	// Aliases has the further names by network id. It has an entry for each network of the service.
	Aliases map[string][]string
	// Tasks are all tasks of the service, sorted by id.
	Tasks []Task
	// Backends are the tasks in Tasks that are Live.
	Backends []Task
}

// Service returns a service, or false if it does not exist.
func (d *Directory) Service(id string) (Service, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.services[id]
	if s == nil || s.routing == nil {
		return Service{ID: id}, false
	}
	all := make([]Task, 0, len(s.tasks))
	for _, t := range s.tasks {
		all = append(all, Task{Backend: t.Backend, Addresses: t.addresses, Local: t.GetNodeId() == d.self})
	}
	slices.SortFunc(all, func(a, b Task) int { return cmp.Compare(a.GetTaskId(), b.GetTaskId()) })
	backends := d.markLive(all)
	return Service{
		ID: id, Name: s.routing.GetName(), Endpoint: s.routing.GetEndpoint(), VIPs: s.vips, Aliases: s.aliases,
		Tasks: all, Backends: backends,
	}, true
}

// ServiceOf returns the service of a task, or false if the task or its service is not known.
func (d *Directory) ServiceOf(task string) (Service, bool) {
	d.mu.Lock()
	t := d.tasks[task]
	d.mu.Unlock()
	if t == nil {
		return Service{}, false
	}
	return d.Service(t.GetServiceId())
}

// ServicesOn returns the ids of the services that have a name, an address or a task on the network,
// sorted.
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

// Published returns the ids of the services with a port that the routing mesh publishes, sorted.
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

// Self returns this node. It returns false if the managers have not sent its addresses yet, or if
// it has no address on the ingress network.
func (d *Directory) Self() (Node, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	self := d.nodes[d.self]
	return self, self.meshed()
}

// meshed says whether the routing mesh can reach the node.
func (n Node) meshed() bool { return n.Underlay.IsValid() && len(n.Mesh) > 0 }

// MeshPeers returns the other nodes that the routing mesh can reach, sorted by id.
func (d *Directory) MeshPeers() []Node {
	return slices.DeleteFunc(d.Nodes(), func(n Node) bool { return n.ID == d.self || !n.meshed() })
}

// Ingress returns the network of the routing mesh, or nil if the managers have not sent it yet.
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

// Meshed says whether the routing mesh publishes a port of the service.
func (s Service) Meshed() bool { return slices.ContainsFunc(s.Endpoint.GetPorts(), publish.ByMesh) }

// Networks returns the ids of the networks on which the service has a name, an address or a task,
// sorted.
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
