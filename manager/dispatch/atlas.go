package dispatch

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"swarm/internal/ipam"
	"swarm/internal/members"
	"swarm/internal/spec"
	"swarm/internal/task"
	"swarm/internal/template"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// atlas is what the overlays of nodes have to know, and which node has to know what of it. It is kept up to date from the
// store's changes, so that one changed task costs a look at that task and a word to the nodes that it concerns. What it
// hands out is made once for all sessions, and never changed: another state is another object.
//
// A node is concerned by a service when it carries a network that the service is on, or when the service publishes a port
// on all nodes. It carries a network while a task on it is placed there and has not ended.
type atlas struct {
	mu       sync.RWMutex // guards the rest; written by the goroutine that follows the store
	plan     ipam.Subnets // of network ingress
	mesh     map[string][]netip.Addr
	peers    map[string]*swarmv1.Peering
	routes   map[string]*route   // by service
	services map[string]string   // of backends: task id -> service id
	segments map[string]*segment // by network
}

// route is one service that some node has to know.
type route struct {
	routing   *swarmv1.Routing // nil: its row is gone, or has not been seen
	published bool             // on all nodes
	own       []string         // networks of the current revision
	networks  map[string]int   // how often the current revision and backends name each
	backends  map[string]*swarmv1.Backend
}

// segment is one network: the services that are on it, and how many backends each node has there.
type segment struct {
	services map[string]struct{}
	carriers map[string]int
}

func newAtlas() *atlas {
	a := &atlas{}
	a.clear()
	return a
}

func (a *atlas) clear() {
	a.plan, a.mesh, a.peers = nil, map[string][]netip.Addr{}, map[string]*swarmv1.Peering{}
	a.routes, a.services, a.segments = map[string]*route{}, map[string]string{}, map[string]*segment{}
}

// load starts anew from a view.
func (a *atlas) load(view *raftstore.View) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clear()
	m := newMarks() // nobody has been told anything yet
	for svc := range view.Services.All() {
		a.service(m, view, svc.GetId())
	}
	// Tasks of services that are on no network any more, or gone.
	for t := range view.Tasks.All() {
		if len(overlays(t)) > 0 {
			a.task(m, view, t.GetId(), t.GetServiceId())
		}
	}
	for c := range view.Claims.All() {
		a.claim(nil, c)
	}
	a.network(m, view)
}

// apply takes over a batch, and adds to the marks who must be told what.
func (a *atlas) apply(m *marks, batch raftstore.Batch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range batch.Changes {
		switch c.Table {
		case raftstore.TableService, raftstore.TableEndpoint:
			a.service(m, batch.View, c.Key)
		case raftstore.TableTask:
			row := latest[*swarmv1.Task](c)
			if a.routes[row.GetServiceId()] != nil || len(overlays(row)) > 0 {
				a.task(m, batch.View, c.Key, row.GetServiceId())
			}
		case raftstore.TableTaskStatus:
			a.status(m, batch.View, c)
		case raftstore.TableNode:
			a.peer(m, batch.View, c.Key)
		case raftstore.TableClaim:
			before, _ := c.Old.(*swarmv1.Claim)
			after, _ := c.New.(*swarmv1.Claim)
			for _, node := range a.claim(before, after) {
				a.peer(m, batch.View, node)
			}
		case raftstore.TableNetwork:
			if latest[*swarmv1.Network](c).GetSpec().GetIngress() {
				a.network(m, batch.View)
			}
		}
	}
}

// latest is the row of a change, as it is or as it was.
func latest[T any](c raftstore.RowChange) T {
	if row, ok := c.New.(T); ok && c.New != nil {
		return row
	}
	row, _ := c.Old.(T)
	return row
}

func overlays(t *swarmv1.Task) []string { return networksOf(t.GetNetworks()) }

// networksOf are the networks that are not node-local.
func networksOf(list []*swarmv1.NetworkAttachment) (out []string) {
	for _, n := range list {
		if !spec.LocalNetwork(n.GetNetworkId()) {
			out = append(out, n.GetNetworkId())
		}
	}
	return out
}

// service looks at a service again: its names, addresses, ports and networks.
func (a *atlas) service(m *marks, view *raftstore.View, id string) {
	svc, ok := present(view.Services.Get(id))
	var own []string
	published := false
	end, _ := view.Endpoints.Get(id)
	if ok {
		rev, _ := view.Revision(id, svc.GetRevision())
		for _, n := range rev.GetSpec().GetTaskTemplate().GetNetworks() {
			if !spec.LocalNetwork(n.GetTarget()) {
				own = append(own, n.GetTarget())
			}
		}
		published = slices.ContainsFunc(end.GetPorts(), func(p *swarmv1.PortConfig) bool {
			return p.GetPublishMode() != swarmv1.PortConfig_HOST
		})
	}
	r, known := a.routes[id]
	if !known {
		if len(own) == 0 && !published {
			return
		}
		r = a.route(view, id)
	}
	was := r.own
	r.own = own
	for _, n := range own {
		a.join(m, id, r, n)
	}
	for _, n := range was {
		a.part(m, id, r, n)
	}
	rescan := !known || r.published != published
	if r.published != published {
		r.published = published
		m.all(ref{kind: swarmv1.AssignmentRef_ROUTING, id: id})
	}
	if routing := routingOf(view, id); !routing.EqualVT(r.routing) {
		r.routing = routing
		a.tell(m, r, ref{kind: swarmv1.AssignmentRef_ROUTING, id: id})
	}
	if rescan {
		for t := range view.TasksOfService(id) {
			a.task(m, view, t.GetId(), id)
		}
	}
	a.release(id, r)
}

func (a *atlas) route(view *raftstore.View, id string) *route {
	r := a.routes[id]
	if r == nil {
		r = &route{routing: routingOf(view, id), networks: map[string]int{}, backends: map[string]*swarmv1.Backend{}}
		a.routes[id] = r
	}
	return r
}

func routingOf(view *raftstore.View, id string) *swarmv1.Routing {
	svc, ok := present(view.Services.Get(id))
	if !ok {
		return nil
	}
	end, _ := view.Endpoints.Get(id)
	out := &swarmv1.Routing{ServiceId: id, Name: svc.GetName(), Endpoint: end}
	rev, _ := view.Revision(id, svc.GetRevision())
	for _, n := range rev.GetSpec().GetTaskTemplate().GetNetworks() {
		if !spec.LocalNetwork(n.GetTarget()) {
			out.Networks = append(out.Networks, &swarmv1.NetworkAttachment{NetworkId: n.GetTarget(), Aliases: n.GetAliases()})
		}
	}
	return out
}

// release forgets a service that concerns nobody. Who was concerned has been told why not any more.
func (a *atlas) release(id string, r *route) {
	if r.published || len(r.networks) > 0 {
		return
	}
	delete(a.routes, id)
	for t := range r.backends {
		delete(a.services, t)
	}
}

// join counts one more who says that the service is on the network, part one less.
func (a *atlas) join(m *marks, id string, r *route, network string) {
	if r.networks[network]++; r.networks[network] > 1 {
		return
	}
	s := a.segments[network]
	if s == nil {
		s = &segment{services: map[string]struct{}{}, carriers: map[string]int{}}
		a.segments[network] = s
	}
	s.services[id] = struct{}{}
	for node := range s.carriers {
		m.node(node, ref{kind: swarmv1.AssignmentRef_ROUTING, id: id})
	}
}

func (a *atlas) part(m *marks, id string, r *route, network string) {
	if r.networks[network]--; r.networks[network] > 0 {
		return
	}
	delete(r.networks, network)
	s := a.segments[network]
	delete(s.services, id)
	for node := range s.carriers {
		m.node(node, ref{kind: swarmv1.AssignmentRef_ROUTING, id: id})
	}
	a.tidy(network, s)
}

func (a *atlas) tidy(network string, s *segment) {
	if len(s.services) == 0 && len(s.carriers) == 0 {
		delete(a.segments, network)
	}
}

// status looks at a task again when its worker has said something that matters to others.
func (a *atlas) status(m *marks, view *raftstore.View, c raftstore.RowChange) {
	before, _ := c.Old.(*swarmv1.TaskStatus)
	after, _ := c.New.(*swarmv1.TaskStatus)
	if before == nil || before.GetReady() == after.GetReady() && placed(before) == placed(after) {
		return // a new one comes with its task
	}
	id, known := a.services[c.Key]
	if !known {
		t, _ := view.Tasks.Get(c.Key)
		if a.routes[t.GetServiceId()] == nil && len(overlays(t)) == 0 {
			return
		}
		id = t.GetServiceId()
	}
	a.task(m, view, c.Key, id)
}

// placed: a node has the task, and it has not ended.
func placed(st *swarmv1.TaskStatus) bool {
	return st.GetState() >= swarmv1.TaskState_ASSIGNED && !task.Terminal(st.GetState())
}

// task looks at a task of a service again.
func (a *atlas) task(m *marks, view *raftstore.View, id, service string) {
	r := a.route(view, service)
	old, now := r.backends[id], r.backend(view, id)
	if old.EqualVT(now) {
		a.release(service, r)
		return
	}
	if now != nil {
		r.backends[id], a.services[id] = now, service
		for _, n := range networksOf(now.GetNetworks()) {
			a.join(m, service, r, n)
			a.carry(m, n, now.GetNodeId(), 1)
		}
	} else {
		delete(r.backends, id)
		delete(a.services, id)
	}
	a.tell(m, r, ref{kind: swarmv1.AssignmentRef_BACKEND, id: id, of: service})
	for _, n := range networksOf(old.GetNetworks()) {
		a.part(m, service, r, n) // tells the node, while it carries the network
		a.carry(m, n, old.GetNodeId(), -1)
	}
	a.release(service, r)
}

// backend is what others have to know of a task; nil when it is nothing: it is not placed, has ended, or nobody reaches it.
func (r *route) backend(view *raftstore.View, id string) *swarmv1.Backend {
	t, ok := present(view.Tasks.Get(id))
	st := view.Status(id)
	if !ok || t.GetNodeId() == "" || !placed(st) || !r.published && len(overlays(t)) == 0 {
		return nil
	}
	return &swarmv1.Backend{
		TaskId: id, ServiceId: t.GetServiceId(), NodeId: t.GetNodeId(), Slot: t.GetSlot(), Networks: t.GetNetworks(),
		Ready:    st.GetReady() && t.GetDesiredState() == swarmv1.TaskState_RUNNING,
		Hostname: hostname(view, t),
	}
}

// hostname is what the task's service calls its container; "" when it does not, or so badly that the task is rejected.
func hostname(view *raftstore.View, t *swarmv1.Task) string {
	rev, _ := view.Revision(t.GetServiceId(), t.GetRevision())
	if rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetHostname() == "" {
		return ""
	}
	row, _ := view.Nodes.Get(t.GetNodeId())
	st, _ := view.NodeStates.Get(t.GetNodeId())
	platform := st.GetDescription().GetPlatform()
	node := template.Node{ID: t.GetNodeId(), Hostname: row.GetHostname(), OS: platform.GetOs(), Arch: platform.GetArchitecture()}
	name, err := template.Hostname(rev, t, node)
	if err != nil {
		return ""
	}
	return name
}

// carry counts a node's backends on a network. With the first and the last of them, other services concern the node.
func (a *atlas) carry(m *marks, network, node string, n int) {
	s := a.segments[network]
	was := s.carriers[node]
	if s.carriers[node] += n; s.carriers[node] == 0 {
		delete(s.carriers, node)
	}
	if was == 0 || was+n == 0 {
		m.node(node, ref{kind: kindSegment, id: network})
	}
	a.tidy(network, s)
}

// tell marks the nodes that a service concerns.
func (a *atlas) tell(m *marks, r *route, what ref) {
	if r.published {
		m.all(what)
		return
	}
	var told map[string]bool
	if len(r.networks) > 1 {
		told = map[string]bool{}
	}
	for network := range r.networks {
		for node := range a.segments[network].carriers {
			if told[node] {
				continue
			}
			if told != nil {
				told[node] = true
			}
			m.node(node, what)
		}
	}
}

// concerns says whether a service concerns a node.
func (a *atlas) concerns(service, node string) bool {
	r := a.routes[service]
	if r == nil || r.routing == nil {
		return false
	}
	if r.published {
		return true
	}
	for network := range r.networks {
		if a.segments[network].carriers[node] > 0 {
			return true
		}
	}
	return false
}

// claim notes which addresses nodes have on network ingress, and returns the nodes concerned.
func (a *atlas) claim(before, after *swarmv1.Claim) (nodes []string) {
	if node, addr, ok := meshClaim(before); ok && (after == nil || after.GetOwner() != before.GetOwner()) {
		a.mesh[node] = slices.DeleteFunc(slices.Clone(a.mesh[node]), func(o netip.Addr) bool { return o == addr })
		if len(a.mesh[node]) == 0 {
			delete(a.mesh, node)
		}
		nodes = append(nodes, node)
	}
	if node, addr, ok := meshClaim(after); ok && !slices.Contains(a.mesh[node], addr) {
		a.mesh[node] = append(slices.Clone(a.mesh[node]), addr)
		slices.SortFunc(a.mesh[node], netip.Addr.Compare)
		nodes = append(nodes, node)
	}
	return nodes
}

func meshClaim(c *swarmv1.Claim) (node string, a netip.Addr, ok bool) {
	if node, ok = ipam.NodeOwner(c.GetOwner()); !ok {
		return "", a, false
	}
	_, a, ok = ipam.ParseKey(c.GetKey())
	return node, a, ok
}

// network looks at network ingress, and so at every node, again.
func (a *atlas) network(m *marks, view *raftstore.View) {
	row, _ := view.NetworkByName(spec.Ingress)
	a.plan, _ = ipam.ParseSubnets(row.GetIpam())
	for node := range view.Nodes.All() {
		a.peer(m, view, node.GetId())
	}
}

// peer looks at a node again.
func (a *atlas) peer(m *marks, view *raftstore.View, id string) {
	var now *swarmv1.Peering
	if n, ok := present(view.Nodes.Get(id)); ok {
		now = &swarmv1.Peering{
			NodeId: id, Hostname: n.GetHostname(), Addr: n.GetDataPathAddr(), Port: n.GetPort(), PublicKeys: members.KeysOf(n),
		}
		switch {
		case now.Addr == "":
			now.Addr = n.GetAddr()
		case now.Addr != n.GetAddr():
			now.Others = []string{n.GetAddr()}
		}
		for _, addr := range a.mesh[id] {
			if s, ok := a.plan.Containing(addr); ok {
				now.MeshAddresses = append(now.MeshAddresses, s.WithPrefix(addr))
			}
		}
	}
	if a.peers[id].EqualVT(now) {
		return
	}
	if a.peers[id] = now; now == nil {
		delete(a.peers, id)
	}
	m.all(ref{kind: swarmv1.AssignmentRef_PEERING, id: id})
}

// servicesOf are the services that concern a node.
func (a *atlas) servicesOf(node string) []string {
	found := map[string]bool{}
	for id, r := range a.routes {
		if r.published {
			found[id] = true
		}
	}
	for _, s := range a.segments {
		if s.carriers[node] > 0 {
			for id := range s.services {
				found[id] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}
