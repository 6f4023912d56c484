package directory

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"swarm/internal/broadcast"
	swarmv1 "swarm/proto/swarm/v1"
)

// Directory is safe for concurrent use. The caller may change what its methods return, except for
// proto messages.
type Directory struct {
	self string // id of this node

	mu       sync.Mutex // guards what follows
	networks map[string]*swarmv1.Network
	nodes    map[string]Node
	services map[string]*service
	tasks    map[string]*task
	// endpoints has, by network and task id, the tasks that have an address on the network.
	endpoints map[string]map[string]*task
	dead      map[string]bool
	dirty     Changes
	changed   broadcast.Signal // sent after each call that leaves dirty not empty
}

// service is what the managers have sent about one service. routing is nil while the managers have
// sent only tasks of the service.
type service struct {
	routing *swarmv1.Routing
	vips    map[string][]netip.Prefix // by network
	aliases map[string][]string       // by network; has an entry for each network of the service
	tasks   map[string]*task
}

type task struct {
	*swarmv1.Backend
	addresses map[string][]netip.Addr // by network
}

// New returns an empty directory for the node with the id self.
func New(self string) *Directory {
	return &Directory{
		self: self, networks: map[string]*swarmv1.Network{}, nodes: map[string]Node{}, services: map[string]*service{},
		tasks: map[string]*task{}, endpoints: map[string]map[string]*task{}, dead: map[string]bool{},
		dirty: newChanges(),
	}
}

// Changes names the objects that have changed.
type Changes struct {
	// Networks has the ids of networks that were added, removed or changed, and of networks with a
	// task on a node whose address changed. All endpoints of these networks must be programmed
	// again.
	Networks map[string]bool
	// Endpoints has, by network and task id, the endpoints that were added, removed or moved.
	Endpoints map[string]map[string]bool
	// Services has the ids of services whose names, addresses, ports or backends changed, or that
	// were removed.
	Services map[string]bool
	// Nodes says that a node was added or removed, or that a node's addresses or port changed.
	Nodes bool
}

func newChanges() Changes {
	return Changes{Networks: map[string]bool{}, Endpoints: map[string]map[string]bool{}, Services: map[string]bool{}}
}

// Empty says whether nothing has changed.
func (c Changes) Empty() bool {
	return !c.Nodes && len(c.Networks) == 0 && len(c.Endpoints) == 0 && len(c.Services) == 0
}

// Merge adds the objects in o to c.
func (c *Changes) Merge(o Changes) {
	c.Nodes = c.Nodes || o.Nodes
	maps.Copy(c.Networks, o.Networks)
	maps.Copy(c.Services, o.Services)
	for network, tasks := range o.Endpoints {
		for id := range tasks {
			c.addEndpoint(network, id)
		}
	}
}

// addEndpoint adds a task on a network to the changes.
func (c Changes) addEndpoint(network, id string) {
	if c.Endpoints[network] == nil {
		c.Endpoints[network] = map[string]bool{}
	}
	c.Endpoints[network][id] = true
}

// Take returns the changes since the last call, and forgets them.
func (d *Directory) Take() Changes {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.dirty
	d.dirty = newChanges()
	return c
}

// Changed returns a channel that is closed at the next change. Call it before Take, so that no
// change is missed.
func (d *Directory) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed.Changed()
}

// MarkAll marks all nodes, networks and services as changed, so that the caller programs all of
// them. Call it if the state of the kernel is not known.
func (d *Directory) MarkAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dirty.Nodes = true
	for id := range d.networks {
		d.dirty.Networks[id] = true
	}
	for id := range d.services {
		d.dirty.Services[id] = true
	}
	d.wake()
}

func (d *Directory) wake() {
	if !d.dirty.Empty() {
		d.changed.Broadcast()
	}
}

// Apply applies changes from a manager in order. It ignores kinds of objects that do not concern
// networks.
func (d *Directory) Apply(changes []*swarmv1.AssignmentChange) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range changes {
		switch c := c.Change.(type) {
		case *swarmv1.AssignmentChange_Put:
			d.put(c.Put)
		case *swarmv1.AssignmentChange_Remove:
			d.remove(c.Remove.Kind, c.Remove.Id)
		}
	}
	d.wake()
}

func (d *Directory) put(a *swarmv1.Assignment) {
	switch o := a.Object.(type) {
	case *swarmv1.Assignment_Network:
		d.networks[o.Network.GetId()] = o.Network
		d.dirty.Networks[o.Network.GetId()] = true
	case *swarmv1.Assignment_Peering:
		d.putNode(o.Peering.GetNodeId(), nodeOf(o.Peering))
	case *swarmv1.Assignment_Routing:
		d.putRouting(o.Routing.GetServiceId(), o.Routing)
	case *swarmv1.Assignment_Backend:
		d.putTask(o.Backend.GetTaskId(), o.Backend)
	}
}

func (d *Directory) remove(kind swarmv1.AssignmentRef_Kind, id string) {
	switch kind {
	case swarmv1.AssignmentRef_NETWORK:
		delete(d.networks, id)
		d.dirty.Networks[id] = true
	case swarmv1.AssignmentRef_PEERING:
		d.putNode(id, Node{})
	case swarmv1.AssignmentRef_ROUTING:
		d.putRouting(id, nil)
	case swarmv1.AssignmentRef_BACKEND:
		d.putTask(id, nil)
	}
}

// putNode stores the addresses of a node. The zero Node removes the node. It marks the networks
// that have tasks on the node, because their packets go to another address now.
func (d *Directory) putNode(id string, now Node) {
	if d.nodes[id].equal(now) {
		return
	}
	d.nodes[id] = now
	if now.ID == "" {
		delete(d.nodes, id)
	}
	d.dirty.Nodes = true
	for network, tasks := range d.endpoints {
		for _, t := range tasks {
			if t.GetNodeId() == id {
				d.dirty.Networks[network] = true
				break
			}
		}
	}
}

func (d *Directory) putRouting(id string, now *swarmv1.Routing) {
	s := d.service(id)
	s.routing, s.vips, s.aliases = now, map[string][]netip.Prefix{}, map[string][]string{}
	for _, n := range now.GetNetworks() {
		s.aliases[n.GetNetworkId()] = n.GetAliases()
	}
	for _, v := range now.GetEndpoint().GetVirtualIps() {
		if p, err := netip.ParsePrefix(v.GetAddr()); err == nil {
			s.vips[v.GetNetworkId()] = append(s.vips[v.GetNetworkId()], p)
		}
	}
	d.dirty.Services[id] = true
	d.forgetEmpty(id)
}

func (d *Directory) putTask(id string, now *swarmv1.Backend) {
	was := d.tasks[id]
	if was != nil {
		d.dirty.Services[was.GetServiceId()] = true
		delete(d.tasks, id)
		delete(d.services[was.GetServiceId()].tasks, id)
		for network := range was.addresses {
			delete(d.endpoints[network], id)
			if len(d.endpoints[network]) == 0 {
				delete(d.endpoints, network)
			}
		}
	}
	t := newTask(now)
	if t != nil {
		d.dirty.Services[t.GetServiceId()] = true
		d.tasks[id] = t
		d.service(t.GetServiceId()).tasks[id] = t
		for network := range t.addresses {
			if d.endpoints[network] == nil {
				d.endpoints[network] = map[string]*task{}
			}
			d.endpoints[network][id] = t
		}
	}
	d.markMovedEndpoint(id, was, t)
	if was != nil {
		d.forgetEmpty(was.GetServiceId())
	}
}

// markMovedEndpoint marks a task as changed on the networks on which it was added, removed or
// moved. A task that only becomes ready or unready is not a change of a network.
func (d *Directory) markMovedEndpoint(id string, was, now *task) {
	for _, pair := range [][2]*task{{was, now}, {now, was}} {
		a, b := pair[0], pair[1]
		if a == nil {
			continue
		}
		for network, addresses := range a.addresses {
			if b == nil || a.GetNodeId() != b.GetNodeId() || !slices.Equal(addresses, b.addresses[network]) {
				d.dirty.addEndpoint(network, id)
			}
		}
	}
}

func newTask(b *swarmv1.Backend) *task {
	if b == nil {
		return nil
	}
	t := &task{Backend: b, addresses: map[string][]netip.Addr{}}
	for _, n := range b.GetNetworks() {
		for _, a := range n.GetAddresses() {
			if p, err := netip.ParsePrefix(a); err == nil {
				t.addresses[n.GetNetworkId()] = append(t.addresses[n.GetNetworkId()], p.Addr())
			}
		}
	}
	return t
}

func (d *Directory) service(id string) *service {
	s := d.services[id]
	if s == nil {
		s = &service{tasks: map[string]*task{}}
		d.services[id] = s
	}
	return s
}

func (d *Directory) forgetEmpty(id string) {
	if s := d.services[id]; s != nil && s.routing == nil && len(s.tasks) == 0 {
		delete(d.services, id)
	}
}

// Network returns a network that a task of this node uses, or false if it is not known.
func (d *Directory) Network(id string) (*swarmv1.Network, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, ok := d.networks[id]
	return n, ok
}
