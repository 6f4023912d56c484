package assignment

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"swarm/internal/ipam"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

// fixture is a store whose rows the test changes, the State that follows it, and nodes that receive
// messages.
type fixture struct {
	t       *testing.T
	rows    map[string]table.Row
	version uint64
	changes []table.RowChange
	state   *State
	nodes   map[string]*follower
}

// follower is a node. It holds the objects that it has been sent.
type follower struct {
	out  *SentSet
	has  map[Ref]proto.Message
	sent int // messages
}

func newFixture(t *testing.T) *fixture {
	return &fixture{t: t, rows: map[string]table.Row{}, state: NewState(), nodes: map[string]*follower{}}
}

func tableOf(row table.Row) table.ID {
	o := table.Object(row).ProtoReflect()
	return table.ID(o.WhichOneof(o.Descriptor().Oneofs().ByName("object")).Number())
}

func (c *fixture) put(row table.Row) {
	c.version++
	kind, key := tableOf(row), table.Key(row)
	row = proto.Clone(row).(table.Row)
	m := row.ProtoReflect()
	m.Set(m.Descriptor().Fields().ByName("meta"), protoOf(&swarmv1.Meta{Version: c.version}))
	change := table.RowChange{Table: kind, Key: key, New: row}
	id := fmt.Sprint(kind, "/", key)
	if old := c.rows[id]; old != nil {
		change.Old = old
	}
	c.rows[id] = row
	c.changes = append(c.changes, change)
}

func (c *fixture) drop(kind table.ID, key string) {
	id := fmt.Sprint(kind, "/", key)
	if old := c.rows[id]; old != nil {
		c.changes = append(c.changes, table.RowChange{Table: kind, Key: key, Old: old})
		delete(c.rows, id)
	}
}

func (c *fixture) view() *table.View {
	var all []proto.Message
	for _, k := range slices.Sorted(maps.Keys(c.rows)) {
		all = append(all, c.rows[k])
	}
	return table.ViewOf(all...)
}

// session begins the session of a node.
func (c *fixture) session(node string) {
	f := &follower{out: NewSentSet(node, c.state), has: map[Ref]proto.Message{}}
	c.nodes[node] = f
	f.take(f.out.Complete(c.view()))
}

// publish sends each node the objects that have changed.
func (c *fixture) publish() *table.View {
	batch := watch.Batch{View: c.view(), Changes: c.changes}
	c.changes = nil
	d := c.state.Apply(batch)
	for id, f := range c.nodes {
		if refs := append(slices.Clone(d.ByNode[id]), d.All...); len(refs) > 0 {
			f.sent++
			f.take(f.out.Update(batch.View, refs))
		}
	}
	return batch.View
}

func (f *follower) take(changes []*swarmv1.AssignmentChange) {
	for _, c := range changes {
		if r := c.GetRemove(); r != nil {
			delete(f.has, Ref{Kind: r.GetKind(), ID: r.GetId()})
			continue
		}
		switch o := c.GetPut().GetObject().(type) {
		case *swarmv1.Assignment_Peering:
			f.has[Ref{Kind: swarmv1.AssignmentRef_PEERING, ID: o.Peering.NodeId}] = o.Peering
		case *swarmv1.Assignment_Routing:
			f.has[Ref{Kind: swarmv1.AssignmentRef_ROUTING, ID: o.Routing.ServiceId}] = o.Routing
		case *swarmv1.Assignment_Backend:
			f.has[Ref{Kind: swarmv1.AssignmentRef_BACKEND, ID: o.Backend.TaskId}] = o.Backend
		case *swarmv1.Assignment_Network:
			f.has[Ref{Kind: swarmv1.AssignmentRef_NETWORK, ID: o.Network.Id}] = o.Network
		}
	}
}

func (f *follower) holds(kind swarmv1.AssignmentRef_Kind, id string) bool {
	return f.has[Ref{Kind: kind, ID: id}] != nil
}

// check compares the objects of every node with the complete set that a new session would send.
func (c *fixture) check(view *table.View) {
	c.t.Helper()
	fresh := NewState()
	fresh.Load(view)
	for id, f := range c.nodes {
		g := &follower{out: NewSentSet(id, fresh), has: map[Ref]proto.Message{}}
		g.take(g.out.Complete(view))
		for r, want := range g.has {
			if got := f.has[r]; got == nil || !proto.Equal(got, want) {
				c.t.Fatalf("node %s has %v of %v, want %v", id, got, r, want)
			}
		}
		for r := range f.has {
			if g.has[r] == nil {
				c.t.Fatalf("node %s has %v, which does not concern it", id, r)
			}
		}
	}
}

func (c *fixture) node(id string) {
	c.put(&swarmv1.Node{Id: id, Addr: "192.0.2." + id[1:], Hostname: id})
}

func (c *fixture) service(id string, published bool, networks ...string) {
	svc, _ := c.rows[fmt.Sprint(table.Service, "/", id)].(*swarmv1.Service)
	rev := &swarmv1.Revision{ServiceId: id, Number: svc.GetRevision() + 1, Spec: &swarmv1.ServiceSpec{TaskTemplate: &swarmv1.TaskSpec{}}}
	for _, n := range networks {
		rev.Spec.TaskTemplate.Networks = append(rev.Spec.TaskTemplate.Networks, &swarmv1.NetworkAttachmentConfig{Target: n})
	}
	end := &swarmv1.Endpoint{ServiceId: id}
	if published {
		end.Ports = []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: 8080}}
	}
	c.put(rev)
	c.put(end)
	c.put(&swarmv1.Service{Id: id, Name: id, Revision: rev.Number})
}

func (c *fixture) task(id, service, node string, state swarmv1.TaskState, networks ...string) {
	t := &swarmv1.Task{Id: id, ServiceId: service, NodeId: node, DesiredState: swarmv1.TaskState_RUNNING}
	for _, n := range networks {
		t.Networks = append(t.Networks, &swarmv1.NetworkAttachment{NetworkId: n, Addresses: []string{"10.0.1.2/24"}})
	}
	c.put(t)
	c.status(id, state)
}

func (c *fixture) status(id string, state swarmv1.TaskState) {
	c.put(&swarmv1.TaskStatus{TaskId: id, State: state, Ready: state == swarmv1.TaskState_RUNNING})
}

func (c *fixture) mesh(node, addr string) {
	c.put(&swarmv1.Claim{Key: "addr/net0/" + addr, Owner: ipam.OwnerNode + node})
}

func TestTopology_NodesAreSentWhatConcernsThem(t *testing.T) {
	c := newFixture(t)
	c.put(&swarmv1.Network{Id: "net0", Spec: &swarmv1.NetworkSpec{Name: "ingress", Ingress: true}, Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: "10.0.0.0/24"}}}})
	for i := range 3 {
		c.node(fmt.Sprint("n", i))
		c.mesh(fmt.Sprint("n", i), fmt.Sprint("10.0.0.", 5+i))
	}
	c.publish()
	for i := range 3 {
		c.session(fmt.Sprint("n", i))
	}
	n0, n1, n2 := c.nodes["n0"], c.nodes["n1"], c.nodes["n2"]
	if p := n2.has[Ref{Kind: swarmv1.AssignmentRef_PEERING, ID: "n0"}]; !proto.Equal(p, &swarmv1.Peering{NodeId: "n0", Hostname: "n0", Addr: "192.0.2.0", MeshAddresses: []string{"10.0.0.5/24"}}) {
		t.Errorf("a peer is sent as %v", p)
	}
	if !n2.holds(swarmv1.AssignmentRef_NETWORK, "net0") {
		t.Error("a node without tasks is not sent network ingress")
	}
	c.service("web", false, "net1")
	c.service("db", false, "net1")
	c.service("other", false, "net2")
	c.task("t1", "web", "n0", swarmv1.TaskState_ASSIGNED, "net1")
	c.check(c.publish())
	for _, id := range []string{"web", "db"} {
		if !n0.holds(swarmv1.AssignmentRef_ROUTING, id) || n1.holds(swarmv1.AssignmentRef_ROUTING, id) {
			t.Errorf("service %s: want that its node knows it, and no other", id)
		}
	}
	if n0.holds(swarmv1.AssignmentRef_ROUTING, "other") || !n0.holds(swarmv1.AssignmentRef_BACKEND, "t1") {
		t.Error("a node with a task on a network must be sent that network's services and backends, and no others")
	}
	c.task("t2", "db", "n1", swarmv1.TaskState_RUNNING, "net1")
	c.check(c.publish())
	idle := n2.sent
	c.status("t1", swarmv1.TaskState_RUNNING)
	c.check(c.publish())
	if b := n1.has[Ref{Kind: swarmv1.AssignmentRef_BACKEND, ID: "t1"}]; !b.(*swarmv1.Backend).GetReady() {
		t.Errorf("the other attached node sees %v, want it ready", b)
	}
	c.status("t1", swarmv1.TaskState_FAILED)
	c.check(c.publish())
	if n1.holds(swarmv1.AssignmentRef_BACKEND, "t1") || n0.holds(swarmv1.AssignmentRef_ROUTING, "db") {
		t.Error("an ended task leaves a backend, or its node is still attached to the network")
	}
	if n2.sent != idle {
		t.Errorf("a node that nothing of this concerns was sent a message %d times", n2.sent-idle)
	}
	c.service("web", true, "net1")
	c.check(c.publish())
	if !n2.holds(swarmv1.AssignmentRef_ROUTING, "web") {
		t.Error("a node is not sent a published service")
	}
	c.drop(table.Node, "n0")
	c.drop(table.Claim, "addr/net0/10.0.0.5")
	c.check(c.publish())
}

// After any changes in any batches, every node holds the complete set that it would be sent in a
// new session.
func TestTopology_EqualsALoad(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := newFixture(t)
		for range 200 {
			c.chance(r)
			if r.IntN(3) == 0 {
				c.check(c.publish())
			}
		}
	}
}

func (c *fixture) chance(r *rand.Rand) {
	node, service := fmt.Sprint("n", r.IntN(4)), fmt.Sprint("s", r.IntN(4))
	id := fmt.Sprint(service, "t", r.IntN(4)) // a task has one service all its life
	nets := [][]string{nil, {"net1"}, {"net2"}, {"net1", "net2"}, {"bridge"}}[r.IntN(5)]
	switch r.IntN(12) {
	case 0:
		c.node(node)
	case 1:
		c.mesh(node, "10.0.0."+fmt.Sprint(5+r.IntN(4)))
	case 2:
		c.drop(table.Claim, "addr/net0/10.0.0."+fmt.Sprint(5+r.IntN(4)))
	case 3:
		if r.IntN(4) == 0 {
			c.drop(table.Node, node)
		}
	case 4:
		c.put(&swarmv1.Network{Id: "net0", Spec: &swarmv1.NetworkSpec{Name: "ingress", Ingress: true}, Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: "10.0.0.0/24"}}}})
	case 5:
		c.service(service, r.IntN(2) == 0, nets...)
	case 6:
		if r.IntN(2) == 0 {
			c.drop(table.Service, service)
			c.drop(table.Endpoint, service)
			for _, k := range slices.Sorted(maps.Keys(c.rows)) {
				if t, ok := c.rows[k].(*swarmv1.Task); ok && t.ServiceId == service {
					c.drop(table.Task, t.Id)
					c.drop(table.TaskStatus, t.Id)
				}
			}
		}
	case 7, 8:
		if c.rows[fmt.Sprint(table.Task, "/", id)] == nil && c.rows[fmt.Sprint(table.Service, "/", service)] != nil {
			c.task(id, service, node, swarmv1.TaskState_ASSIGNED, nets...)
		}
	case 9:
		if c.rows[fmt.Sprint(table.Task, "/", id)] != nil {
			c.status(id, []swarmv1.TaskState{swarmv1.TaskState_PENDING, swarmv1.TaskState_STARTING, swarmv1.TaskState_RUNNING, swarmv1.TaskState_FAILED}[r.IntN(4)])
		}
	case 10:
		c.drop(table.Task, id)
		c.drop(table.TaskStatus, id)
	case 11:
		if c.nodes[node] == nil {
			c.publish()
			c.session(node)
		}
	}
}

func protoOf(m proto.Message) protoreflect.Value {
	return protoreflect.ValueOfMessage(m.ProtoReflect())
}

// A node is sent the names of a service with its networks, also while the service has no tasks, and
// the hostname of a container with its task.
func TestTopology_NamesOfServicesAndContainers(t *testing.T) {
	c := newFixture(t)
	c.node("n0")
	c.session("n0")
	rev := &swarmv1.Revision{ServiceId: "db", Number: 1, Spec: &swarmv1.ServiceSpec{Name: "db", TaskTemplate: &swarmv1.TaskSpec{
		ContainerSpec: &swarmv1.ContainerSpec{Hostname: "{{.Service.Name}}-{{.Task.Slot}}.{{.Node.Hostname}}"},
		Networks:      []*swarmv1.NetworkAttachmentConfig{{Target: "net1", Aliases: []string{"store"}}, {Target: "bridge"}},
	}}}
	c.put(rev)
	c.put(&swarmv1.Service{Id: "db", Name: "db", Revision: 1})
	c.service("web", false, "net1")
	c.task("t1", "web", "n0", swarmv1.TaskState_RUNNING, "net1")
	c.check(c.publish())
	n0 := c.nodes["n0"]
	want := &swarmv1.Routing{ServiceId: "db", Name: "db", Networks: []*swarmv1.NetworkAttachment{{NetworkId: "net1", Aliases: []string{"store"}}}}
	if got := n0.has[Ref{Kind: swarmv1.AssignmentRef_ROUTING, ID: "db"}]; !proto.Equal(got, want) {
		t.Errorf("a service without tasks is sent as %v, want %v", got, want)
	}
	c.put(&swarmv1.Task{
		Id: "t2", ServiceId: "db", Revision: 1, NodeId: "n0", Slot: 3, DesiredState: swarmv1.TaskState_RUNNING,
		Networks: []*swarmv1.NetworkAttachment{{NetworkId: "net1", Addresses: []string{"10.0.1.9/24"}}},
	})
	c.status("t2", swarmv1.TaskState_STARTING)
	c.check(c.publish())
	if got := n0.has[Ref{Kind: swarmv1.AssignmentRef_BACKEND, ID: "t2"}].(*swarmv1.Backend).GetHostname(); got != "db-3.n0" {
		t.Errorf("hostname: got %q", got)
	}
	if got := n0.has[Ref{Kind: swarmv1.AssignmentRef_BACKEND, ID: "t1"}].(*swarmv1.Backend).GetHostname(); got != "" {
		t.Errorf("hostname of a service that sets none: got %q", got)
	}
}
