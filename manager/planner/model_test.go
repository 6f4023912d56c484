package planner

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"swarm/internal/spec"
	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// epoch is the time at which every test begins.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// model replaces the rest of the cluster: a store that checks groups as raftstore does, and workers
// that carry out their assignments.
type model struct {
	t     testing.TB
	rows  map[string]proto.Message // by "table/key"
	index uint64
	now   time.Time
	// state and planner are those of the manager that leads.
	state   *cluster.State
	planner *Planner
	// next is Result.Next of the last plan.
	next time.Time
	// fails says whether a task fails when the worker starts it.
	fails func(*swarmv1.Task) bool
	// rejects says whether a worker cannot prepare a task.
	rejects func(*swarmv1.Task) bool
	// completes says whether a task ends with code 0 once it runs.
	completes func(*swarmv1.Task) bool
	// obeys says whether a task ends when it is asked to stop.
	obeys func(*swarmv1.Task) bool
	plans int
	// fold passes a change on to the state.
	fold func(old, row proto.Message)
	// fences holds the nodes that are down, and the time at which their leases end.
	fences map[string]time.Time
	// placed holds the tasks that a node has received, and the id of the node.
	placed map[string]string
	// homes holds, by volume and slot, the nodes on which a task of the slot has run with the
	// volume. checked holds the tasks whose node checkVolumes has judged.
	homes   map[string]map[string]bool
	checked map[string]bool
}

func newModel(t testing.TB) *model {
	m := &model{
		t: t, rows: map[string]proto.Message{}, now: epoch,
		fails: never, rejects: never, completes: never, obeys: always, fences: map[string]time.Time{}, placed: map[string]string{},
		homes: map[string]map[string]bool{}, checked: map[string]bool{},
	}
	m.restart()
	m.fold = func(old, row proto.Message) { m.apply(old, row) }
	return m
}

func never(*swarmv1.Task) bool { return false }

func rowKey(m proto.Message) string {
	switch o := m.(type) {
	case *swarmv1.Node:
		return "1/" + o.Id
	case *swarmv1.NodeState:
		return "2/" + o.NodeId
	case *swarmv1.Service:
		return "3/" + o.Id
	case *swarmv1.Revision:
		return fmt.Sprintf("4/%s/%010d", o.ServiceId, o.Number)
	case *swarmv1.Task:
		return "5/" + o.Id
	case *swarmv1.TaskStatus:
		return "6/" + o.TaskId
	case *swarmv1.Network:
		return "7/" + o.Id
	case *swarmv1.Endpoint:
		return "8/" + o.ServiceId
	case *swarmv1.Claim:
		return "9/" + o.Key
	case *swarmv1.Volume:
		return "12/" + o.NodeId + "/" + o.Name
	case *swarmv1.ImageCopy:
		return "14/" + o.Digest + "/" + o.NodeId
	case *swarmv1.Cluster:
		return "15/" + o.Id
	}
	panic(fmt.Sprintf("no key for %T", m))
}

func metaOf(m proto.Message) *swarmv1.Meta {
	return m.(interface{ GetMeta() *swarmv1.Meta }).GetMeta()
}

func setMeta(m proto.Message, meta *swarmv1.Meta) {
	r := m.ProtoReflect()
	r.Set(r.Descriptor().Fields().ByName("meta"), protoOf(meta))
}

func unwrap(o *swarmv1.Object) proto.Message {
	r := o.ProtoReflect()
	f := r.WhichOneof(r.Descriptor().Oneofs().ByName("object"))
	return r.Get(f).Message().Interface()
}

// put writes a row as the store does, and passes the change on to the state.
func (m *model) put(row proto.Message) {
	m.index++
	m.write(row)
}

func (m *model) write(row proto.Message) {
	row = proto.Clone(row)
	key := rowKey(row)
	old := m.rows[key]
	meta := &swarmv1.Meta{Version: m.index, CreatedAt: timestamppb.New(m.now), UpdatedAt: timestamppb.New(m.now)}
	if old != nil {
		meta.CreatedAt = metaOf(old).GetCreatedAt()
	}
	setMeta(row, meta)
	switch o := row.(type) {
	case *swarmv1.Task:
		if old == nil && m.placed[o.Id] != "" {
			m.t.Fatalf("the id of task %s comes twice:\n%s", o.Id, m)
		}
	case *swarmv1.TaskStatus:
		if t, ok := m.rows["5/"+o.TaskId].(*swarmv1.Task); ok && o.State >= swarmv1.TaskState_ASSIGNED {
			m.placed[o.TaskId] = t.NodeId
		}
	}
	m.rows[key] = row
	m.fold(old, row)
}

func (m *model) drop(key string) {
	if old := m.rows[key]; old != nil {
		m.index++
		delete(m.rows, key)
		// A host that joins again is another node.
		maps.DeleteFunc(m.placed, func(_, node string) bool { return key == "1/"+node })
		m.fold(old, nil)
	}
}

// commit checks and applies a group as the store does.
func (m *model) commit(g Group) error {
	for _, c := range g.Changes {
		var key string
		if o := c.GetPut(); o != nil {
			key = rowKey(unwrap(o))
		} else {
			key = fmt.Sprintf("%d/%s", c.GetDelete().GetTable(), c.GetDelete().GetKey())
		}
		have := m.rows[key]
		switch p := c.GetPrecondition().(type) {
		case *swarmv1.Change_IfAbsent:
			if have != nil {
				return fmt.Errorf("%s exists", key)
			}
		case *swarmv1.Change_IfVersion:
			if have == nil || metaOf(have).GetVersion() != p.IfVersion {
				return fmt.Errorf("%s has version %d, not %d", key, metaOf(have).GetVersion(), p.IfVersion)
			}
		}
	}
	m.index++
	for _, c := range g.Changes {
		if o := c.GetPut(); o != nil {
			m.write(unwrap(o))
			continue
		}
		key := fmt.Sprintf("%d/%s", c.GetDelete().GetTable(), c.GetDelete().GetKey())
		if old := m.rows[key]; old != nil {
			delete(m.rows, key)
			m.fold(old, nil)
		}
	}
	return nil
}

// plan plans and commits once. It returns the number of changes.
func (m *model) plan() int {
	m.t.Helper()
	m.fence()
	m.reportAllVolumes()
	before := m.state.String()
	due := m.state.Due(m.now)
	res := m.planner.Plan(due, m.now)
	if after := m.state.String(); before != after {
		m.t.Fatalf("Plan changed the state:\n%s\nwas\n%s", after, before)
	}
	m.next = res.Next
	m.plans++
	meant, rows := m.wantedRunning(), m.rowsOfTasks()
	n := 0
	for _, g := range res.Groups {
		n += len(g.Changes)
		if err := m.commit(g); err != nil {
			m.t.Fatalf("group of service %s rejected: %v", g.Service, err)
		}
	}
	m.check()
	m.checkStarts(meant)
	m.checkPlacements(rows)
	m.checkMoves(rows)
	return n
}

// changeLeader makes another manager the leader, which knows only the store.
func (m *model) changeLeader() {
	m.restart()
	for _, k := range slices.Sorted(maps.Keys(m.rows)) {
		m.apply(nil, m.rows[k])
	}
}

// restart makes an empty state.
func (m *model) restart() {
	m.state = cluster.New(raftstoretest.View())
	m.planner = New(m.state)
}

// apply passes a change on to the state.
func (m *model) apply(old, row proto.Message) {
	m.state.Apply([]table.RowChange{{Old: old, New: row}})
}

// fence marks the nodes whose leases have ended as fenced, as the leader does.
func (m *model) fence() {
	for _, id := range slices.Sorted(maps.Keys(m.fences)) {
		s, ok := m.rows["2/"+id].(*swarmv1.NodeState)
		if ok && m.fences[id].After(m.now) {
			continue
		}
		delete(m.fences, id)
		if ok {
			s = s.CloneVT()
			s.Fenced = true
			m.put(s)
		}
	}
}

// work lets every worker do one step on each of its tasks. It returns how many statuses changed.
func (m *model) work() int {
	n := 0
	for _, t := range m.tasks() {
		if m.workOn(t) {
			n++
		}
	}
	return n
}

func (m *model) workOn(t *swarmv1.Task) bool {
	st := m.status(t.Id)
	node, _ := m.rows["2/"+t.NodeId].(*swarmv1.NodeState)
	if t.NodeId == "" || st.State < swarmv1.TaskState_ASSIGNED || st.State > swarmv1.TaskState_RUNNING ||
		node.GetState() != swarmv1.NodeState_READY || m.rows["1/"+t.NodeId] == nil {
		return false
	}
	next := st.State
	switch {
	case t.DesiredState > swarmv1.TaskState_RUNNING && !m.obeys(t):
	case t.DesiredState > swarmv1.TaskState_RUNNING:
		next = swarmv1.TaskState_SHUTDOWN
	case st.State < swarmv1.TaskState_READY && m.rejects(t):
		next = swarmv1.TaskState_REJECTED
	case st.State < swarmv1.TaskState_READY:
		next = swarmv1.TaskState_READY
	case m.fails(t) && t.DesiredState == swarmv1.TaskState_RUNNING:
		next = swarmv1.TaskState_FAILED
	case t.DesiredState == swarmv1.TaskState_RUNNING && st.State < swarmv1.TaskState_RUNNING:
		next = swarmv1.TaskState_RUNNING
	case st.State == swarmv1.TaskState_RUNNING && m.completes(t):
		next = swarmv1.TaskState_COMPLETE
	}
	if next == st.State {
		return false
	}
	m.report(t.Id, next)
	return true
}

// report writes a task's new state as a worker reports it.
func (m *model) report(id string, state swarmv1.TaskState) {
	st := m.status(id).CloneVT()
	st.State, st.Timestamp = state, timestamppb.New(m.now)
	if state == swarmv1.TaskState_RUNNING {
		st.RunningSince, st.Ready = timestamppb.New(m.now), true
	}
	m.put(st)
	if state == swarmv1.TaskState_RUNNING {
		m.reportVolumes(m.rows["5/"+id].(*swarmv1.Task))
	}
}

// settle plans and works until nothing changes, without advancing the time.
func (m *model) settle() {
	m.t.Helper()
	for range 10_000 {
		if m.plan()+m.work() == 0 {
			return
		}
	}
	m.t.Fatalf("does not converge:\n%s", m.String())
}

// pass advances the time by d, and settles at every deadline on the way.
func (m *model) pass(d time.Duration) {
	m.t.Helper()
	end := m.now.Add(d)
	for range 100_000 {
		m.settle()
		at := m.nextEvent()
		if at.IsZero() || at.After(end) {
			m.now = end
			m.settle()
			return
		}
		m.now = at
	}
	m.t.Fatalf("time does not pass:\n%s", m.String())
}

// nextEvent returns when the planner or the leader has something to do next.
func (m *model) nextEvent() time.Time {
	at := m.next
	for _, f := range m.fences {
		if at.IsZero() || f.Before(at) {
			at = f
		}
	}
	if !at.IsZero() && !at.After(m.now) {
		at = m.now.Add(time.Millisecond)
	}
	return at
}

func (m *model) tasks() []*swarmv1.Task {
	var out []*swarmv1.Task
	for _, k := range slices.Sorted(maps.Keys(m.rows)) {
		if t, ok := m.rows[k].(*swarmv1.Task); ok {
			out = append(out, t)
		}
	}
	slices.SortStableFunc(out, func(a, b *swarmv1.Task) int {
		if c := strings.Compare(a.ServiceId, b.ServiceId); c != 0 {
			return c
		}
		if a.Slot != b.Slot {
			return int(a.Slot) - int(b.Slot)
		}
		if c := strings.Compare(a.NodeId, b.NodeId); c != 0 && a.Slot == 0 {
			return c
		}
		return cmp.Compare(a.Ordinal, b.Ordinal)
	})
	return out
}

func (m *model) status(id string) *swarmv1.TaskStatus {
	st, _ := m.rows["6/"+id].(*swarmv1.TaskStatus)
	return st
}

func (m *model) service(id string) *swarmv1.Service {
	s, _ := m.rows["3/"+id].(*swarmv1.Service)
	return s
}

// on counts the tasks of a service that should run, by node.
func (m *model) on(service string) map[string]int {
	out := map[string]int{}
	for _, t := range m.tasks() {
		st := m.status(t.Id).State
		if t.ServiceId == service && t.DesiredState <= swarmv1.TaskState_RUNNING && st <= swarmv1.TaskState_RUNNING && t.NodeId != "" && st >= swarmv1.TaskState_ASSIGNED {
			out[t.NodeId]++
		}
	}
	return out
}

// running counts the tasks of a service that run and should run.
func (m *model) running(service string) int {
	n := 0
	for _, t := range m.tasks() {
		if t.ServiceId == service && t.DesiredState == swarmv1.TaskState_RUNNING && m.status(t.Id).State == swarmv1.TaskState_RUNNING {
			n++
		}
	}
	return n
}

// addNode adds a READY node with 4 CPUs and 8 GiB.
func (m *model) addNode(id string, edit ...func(*swarmv1.Node, *swarmv1.NodeState)) {
	n := &swarmv1.Node{Id: id, Spec: &swarmv1.NodeSpec{Labels: map[string]string{}}, Hostname: id}
	s := &swarmv1.NodeState{NodeId: id, State: swarmv1.NodeState_READY, SessionEpoch: 1, Since: timestamppb.New(m.now), Description: &swarmv1.NodeDescription{
		Hostname: id, Platform: &swarmv1.Platform{Os: "linux", Architecture: "x86_64"},
		Resources: &swarmv1.Resources{NanoCpus: 4e9, MemoryBytes: 8 << 30},
		Engine:    &swarmv1.EngineDescription{Labels: map[string]string{}},
	}}
	for _, e := range edit {
		e(n, s)
	}
	m.put(n)
	m.put(s)
}

// addNetwork adds a network with the given subnets.
func (m *model) addNetwork(id string, subnets ...string) {
	row := &swarmv1.Network{Id: id, Spec: &swarmv1.NetworkSpec{Name: id, Ingress: id == "ingress"}, Ipam: &swarmv1.IPAMOptions{}}
	for _, s := range subnets {
		row.Ipam.Configs = append(row.Ipam.Configs, &swarmv1.IPAMConfig{Subnet: s})
	}
	m.put(row)
}

func (m *model) setNode(id string, edit func(*swarmv1.Node)) {
	n := m.rows["1/"+id].(*swarmv1.Node).CloneVT()
	if n.Spec.Labels == nil {
		n.Spec.Labels = map[string]string{}
	}
	edit(n)
	m.put(n)
}

func (m *model) setState(id string, state swarmv1.NodeState_State) {
	s := m.rows["2/"+id].(*swarmv1.NodeState).CloneVT()
	s.State, s.Since, s.Fenced = state, timestamppb.New(m.now), false
	delete(m.fences, id)
	if state == swarmv1.NodeState_DOWN {
		m.fences[id] = m.now.Add(spec.DefaultSessionTimeout + spec.FenceMargin)
	}
	m.put(s)
}

func drain(n *swarmv1.Node)    { n.Spec.Availability = swarmv1.NodeSpec_DRAIN }
func activate(n *swarmv1.Node) { n.Spec.Availability = swarmv1.NodeSpec_ACTIVE }
func pause(n *swarmv1.Node)    { n.Spec.Availability = swarmv1.NodeSpec_PAUSE }

// addService adds a service with one replica and no reservations.
func (m *model) addService(id string, edit ...func(*swarmv1.ServiceSpec)) {
	s := &swarmv1.ServiceSpec{
		Name: id,
		TaskTemplate: &swarmv1.TaskSpec{
			ContainerSpec: &swarmv1.ContainerSpec{Image: "docker.io/library/web:1"},
			RestartPolicy: &swarmv1.RestartPolicy{Delay: durationpb.New(5 * time.Second)},
		},
		UpdateConfig:   &swarmv1.UpdateConfig{Parallelism: 1, Monitor: durationpb.New(5 * time.Second)},
		RollbackConfig: &swarmv1.UpdateConfig{Parallelism: 1, Monitor: durationpb.New(5 * time.Second)},
	}
	replicas(1)(s)
	for _, e := range edit {
		e(s)
	}
	m.index++
	m.write(&swarmv1.Revision{ServiceId: id, Number: 1, Template: 1, Spec: s})
	m.write(&swarmv1.Service{Id: id, Name: s.Name, Revision: 1})
}

// edit writes a new revision of the service, as the control API does.
func (m *model) edit(id string, edit ...func(*swarmv1.ServiceSpec)) {
	row := m.service(id).CloneVT()
	old := m.rows[fmt.Sprintf("4/%s/%010d", id, row.Revision)].(*swarmv1.Revision)
	s := old.Spec.CloneVT()
	for _, e := range edit {
		e(s)
	}
	number := row.Revision + 1
	for m.rows[fmt.Sprintf("4/%s/%010d", id, number)] != nil {
		number++
	}
	template := old.Template
	if !spec.SameTasks(s, old.Spec) {
		template = number
	}
	m.index++
	m.write(&swarmv1.Revision{ServiceId: id, Number: number, Template: template, Spec: s})
	row.PreviousRevision, row.Revision, row.UpdateStatus = row.Revision, number, nil
	m.write(row)
}
