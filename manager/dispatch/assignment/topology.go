package assignment

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"swarm/internal/ipam"
	"swarm/internal/publish"
	"swarm/internal/spec"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

// topology is what the overlays of all nodes have to know, and which node needs which part. It
// follows the store's changes: one changed task costs one look at that task, and one reference for
// each node that it concerns.
//
// The objects that a topology holds are shared by all sessions and never change. A changed peer,
// service or backend is another object.
type topology struct {
	mu       sync.RWMutex            // guards the rest; the goroutine that follows the store writes
	subnets  ipam.Subnets            // of the network ingress
	mesh     map[string][]netip.Addr // addresses of nodes on the network ingress
	peers    map[string]*swarmv1.Peering
	services map[string]*serviceEntry
	networks map[string]*network
	// serviceOf has the service of each backend, by task.
	serviceOf map[string]string
}

// serviceEntry is what the topology knows of one service. There is an entry for each service that
// publishes a port on all nodes or is on an overlay network.
type serviceEntry struct {
	routing     *swarmv1.Routing // nil when the service's row does not exist
	published   bool             // it publishes a port on all nodes
	ownNetworks []string         // the overlay networks of the current revision
	networks    map[string]int   // how many users each network has: the current revision and the backends that are on it
	backends    map[string]*swarmv1.Backend
}

// network is an overlay network: the services on it, and the nodes that are attached to it with the
// number of their backends there.
type network struct {
	services map[string]struct{}
	attached map[string]int
}

func newTopology() *topology {
	t := &topology{}
	t.clear()
	return t
}

func (t *topology) clear() {
	t.subnets, t.mesh, t.peers = nil, map[string][]netip.Addr{}, map[string]*swarmv1.Peering{}
	t.services, t.networks, t.serviceOf = map[string]*serviceEntry{}, map[string]*network{}, map[string]string{}
}

// load starts again from a view.
func (t *topology) load(view *table.View) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
	d := newDirty() // nobody reads it: the caller marks every session as a whole
	for svc := range view.Services.All() {
		t.updateService(d, view, svc.GetId())
	}
	// This finds the tasks of services that were removed, or whose revision names no network any
	// more.
	for row := range view.Tasks.All() {
		if len(overlaysOf(row.GetNetworks())) > 0 {
			t.updateTask(d, view, row.GetId(), row.GetServiceId())
		}
	}
	for c := range view.Claims.All() {
		t.updateClaim(nil, c)
	}
	t.updateIngress(d, view)
}

// apply applies a batch of changes, and adds references for the nodes that they concern.
func (t *topology) apply(d *Dirty, batch watch.Batch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range batch.Changes {
		switch c.Table {
		case table.Service, table.Endpoint:
			t.updateService(d, batch.View, c.Key)
		case table.Task:
			row := latest[*swarmv1.Task](c)
			if t.services[row.GetServiceId()] != nil || len(overlaysOf(row.GetNetworks())) > 0 {
				t.updateTask(d, batch.View, c.Key, row.GetServiceId())
			}
		case table.TaskStatus:
			t.updateStatus(d, batch.View, c)
		case table.Node:
			t.updatePeer(d, batch.View, c.Key)
		case table.Claim:
			before, _ := c.Old.(*swarmv1.Claim)
			after, _ := c.New.(*swarmv1.Claim)
			for _, node := range t.updateClaim(before, after) {
				t.updatePeer(d, batch.View, node)
			}
		case table.Network:
			if latest[*swarmv1.Network](c).GetSpec().GetIngress() {
				t.updateIngress(d, batch.View)
			}
		}
	}
}

// overlaysOf returns the networks that are not node-local.
func overlaysOf(list []*swarmv1.NetworkAttachment) (out []string) {
	for _, n := range list {
		if !spec.IsLocalNetwork(n.GetNetworkId()) {
			out = append(out, n.GetNetworkId())
		}
	}
	return out
}

// updateService reads a service's name, addresses, ports and networks again.
func (t *topology) updateService(d *Dirty, view *table.View, id string) {
	own, published := servicePlace(view, id)
	svc, known := t.services[id]
	if !known {
		if len(own) == 0 && !published {
			return
		}
		svc = t.ensureService(view, id)
	}
	was := svc.ownNetworks
	svc.ownNetworks = own
	for _, n := range own {
		t.join(d, id, svc, n)
	}
	for _, n := range was {
		t.leave(d, id, svc, n)
	}
	rescan := !known || svc.published != published
	if svc.published != published {
		svc.published = published
		d.all(Ref{Kind: swarmv1.AssignmentRef_ROUTING, ID: id})
	}
	if routing := routingOf(view, id); !routing.EqualVT(svc.routing) {
		svc.routing = routing
		t.notify(d, svc, Ref{Kind: swarmv1.AssignmentRef_ROUTING, ID: id})
	}
	if rescan {
		for row := range view.TasksOfService(id) {
			t.updateTask(d, view, row.GetId(), id)
		}
	}
	t.dropUnused(id, svc)
}

// servicePlace returns the overlay networks of a service's current revision, and whether the
// service publishes a port on all nodes.
func servicePlace(view *table.View, id string) (networks []string, published bool) {
	svc, ok := view.Services.Get(id)
	if !ok {
		return nil, false
	}
	rev, _ := view.Revision(id, svc.GetRevision())
	for _, n := range rev.GetSpec().GetTaskTemplate().GetNetworks() {
		if !spec.IsLocalNetwork(n.GetTarget()) {
			networks = append(networks, n.GetTarget())
		}
	}
	end, _ := view.Endpoints.Get(id)
	return networks, slices.ContainsFunc(end.GetPorts(), publish.ByMesh)
}

// ensureService returns the entry of a service, and adds one if there is none.
func (t *topology) ensureService(view *table.View, id string) *serviceEntry {
	svc := t.services[id]
	if svc == nil {
		svc = &serviceEntry{routing: routingOf(view, id), networks: map[string]int{}, backends: map[string]*swarmv1.Backend{}}
		t.services[id] = svc
	}
	return svc
}

// routingOf returns what nodes receive about a service, nil when there is no such service.
func routingOf(view *table.View, id string) *swarmv1.Routing {
	svc, ok := view.Services.Get(id)
	if !ok {
		return nil
	}
	end, _ := view.Endpoints.Get(id)
	out := &swarmv1.Routing{ServiceId: id, Name: svc.GetName(), Endpoint: end}
	rev, _ := view.Revision(id, svc.GetRevision())
	for _, n := range rev.GetSpec().GetTaskTemplate().GetNetworks() {
		if !spec.IsLocalNetwork(n.GetTarget()) {
			out.Networks = append(out.Networks, &swarmv1.NetworkAttachment{NetworkId: n.GetTarget(), Aliases: n.GetAliases()})
		}
	}
	return out
}

// dropUnused forgets a service that publishes no port on all nodes and is on no network. The nodes
// that it concerned have got a reference to it in the Dirty, and will forget it.
func (t *topology) dropUnused(id string, svc *serviceEntry) {
	if svc.published || len(svc.networks) > 0 {
		return
	}
	delete(t.services, id)
	for task := range svc.backends {
		delete(t.serviceOf, task)
	}
}

// join counts one more user of a network within the service: its current revision or one of its
// backends. With the first user the service joins the network, and begins to concern the nodes that
// are attached to the network.
func (t *topology) join(d *Dirty, id string, svc *serviceEntry, networkID string) {
	svc.networks[networkID]++
	if svc.networks[networkID] > 1 {
		return
	}
	n := t.networks[networkID]
	if n == nil {
		n = &network{services: map[string]struct{}{}, attached: map[string]int{}}
		t.networks[networkID] = n
	}
	n.services[id] = struct{}{}
	for node := range n.attached {
		d.node(node, Ref{Kind: swarmv1.AssignmentRef_ROUTING, ID: id})
	}
}

// leave counts one user of a network fewer. After the last user the service leaves the network, and
// may no longer concern the nodes that are attached to the network.
func (t *topology) leave(d *Dirty, id string, svc *serviceEntry, networkID string) {
	svc.networks[networkID]--
	if svc.networks[networkID] > 0 {
		return
	}
	delete(svc.networks, networkID)
	n := t.networks[networkID]
	delete(n.services, id)
	for node := range n.attached {
		d.node(node, Ref{Kind: swarmv1.AssignmentRef_ROUTING, ID: id})
	}
	t.dropEmpty(networkID, n)
}

// dropEmpty forgets a network without services and without attached nodes.
func (t *topology) dropEmpty(id string, n *network) {
	if len(n.services) == 0 && len(n.attached) == 0 {
		delete(t.networks, id)
	}
}

// updateStatus looks at a task again when its worker's report matters to other nodes.
func (t *topology) updateStatus(d *Dirty, view *table.View, c table.RowChange) {
	before, _ := c.Old.(*swarmv1.TaskStatus)
	after, _ := c.New.(*swarmv1.TaskStatus)
	if before == nil {
		return // The task's row is committed together with its first status, and is looked at anyway.
	}
	if before.GetReady() == after.GetReady() && isPlaced(before) == isPlaced(after) {
		return
	}
	id, known := t.serviceOf[c.Key]
	if !known {
		row, _ := view.Tasks.Get(c.Key)
		if t.services[row.GetServiceId()] == nil && len(overlaysOf(row.GetNetworks())) == 0 {
			return
		}
		id = row.GetServiceId()
	}
	t.updateTask(d, view, c.Key, id)
}

// isPlaced reports whether a node has the task and the task has not ended.
func isPlaced(st *swarmv1.TaskStatus) bool {
	return st.GetState() >= swarmv1.TaskState_ASSIGNED && !task.Terminal(st.GetState())
}

// updateTask looks at a task of a service again.
func (t *topology) updateTask(d *Dirty, view *table.View, id, service string) {
	svc := t.ensureService(view, service)
	old, now := svc.backends[id], backendOf(view, id, svc.published)
	if old.EqualVT(now) {
		t.dropUnused(service, svc)
		return
	}
	if now != nil {
		svc.backends[id], t.serviceOf[id] = now, service
		for _, n := range overlaysOf(now.GetNetworks()) {
			t.join(d, service, svc, n)
			t.attach(d, n, now.GetNodeId(), 1)
		}
	} else {
		delete(svc.backends, id)
		delete(t.serviceOf, id)
	}
	t.notify(d, svc, Ref{Kind: swarmv1.AssignmentRef_BACKEND, ID: id, Service: service})
	for _, n := range overlaysOf(old.GetNetworks()) {
		t.leave(d, service, svc, n) // before the node is detached: the node must get the reference
		t.attach(d, n, old.GetNodeId(), -1)
	}
	t.dropUnused(service, svc)
}

// attach adds n to the number of a node's backends on a network. With the first backend the node is
// attached to the network, and after the last one it is detached. Then other services concern it.
func (t *topology) attach(d *Dirty, networkID, node string, n int) {
	net := t.networks[networkID]
	was := net.attached[node]
	net.attached[node] += n
	if net.attached[node] == 0 {
		delete(net.attached, node)
	}
	if was == 0 || was+n == 0 {
		d.node(node, Ref{Kind: kindAttachment, ID: networkID})
	}
	t.dropEmpty(networkID, net)
}

// notify adds a reference for each node that a service concerns.
func (t *topology) notify(d *Dirty, svc *serviceEntry, what Ref) {
	if svc.published {
		d.all(what)
		return
	}
	var done map[string]bool
	if len(svc.networks) > 1 {
		done = map[string]bool{}
	}
	for networkID := range svc.networks {
		for node := range t.networks[networkID].attached {
			if done[node] {
				continue
			}
			if done != nil {
				done[node] = true
			}
			d.node(node, what)
		}
	}
}

// concerns reports whether a service concerns a node.
func (t *topology) concerns(service, node string) bool {
	svc := t.services[service]
	if svc == nil || svc.routing == nil {
		return false
	}
	if svc.published {
		return true
	}
	for networkID := range svc.networks {
		if t.networks[networkID].attached[node] > 0 {
			return true
		}
	}
	return false
}

// servicesOf returns the services that concern a node, sorted.
func (t *topology) servicesOf(node string) []string {
	found := map[string]bool{}
	for id, svc := range t.services {
		if svc.published {
			found[id] = true
		}
	}
	for _, n := range t.networks {
		if n.attached[node] > 0 {
			for id := range n.services {
				found[id] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}
