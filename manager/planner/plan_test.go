package planner

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	swarmv1 "swarm/proto/swarm/v1"
)

func clusterOf(t testing.TB, nodes ...string) *model {
	m := newModel(t)
	for _, id := range nodes {
		m.addNode(id)
	}
	return m
}

func wantOn(t *testing.T, m *model, service string, want map[string]int) {
	t.Helper()
	if diff := cmp.Diff(want, m.on(service)); diff != "" {
		t.Fatalf("tasks of %s by node (-want +got):\n%s%s", service, diff, m)
	}
}

func TestPlan_ReplicatedSpreads(t *testing.T) {
	m := clusterOf(t, "a", "b", "c")
	m.addService("web", replicas(7))
	m.settle()
	wantOn(t, m, "web", map[string]int{"a": 3, "b": 2, "c": 2})
	m.addService("api", replicas(2))
	m.settle()
	wantOn(t, m, "api", map[string]int{"b": 1, "c": 1})
}

func TestPlan_ScaleDownLevelsNodes(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", replicas(6))
	m.settle()
	m.addNode("c")
	m.edit("web", replicas(8))
	m.settle()
	wantOn(t, m, "web", map[string]int{"a": 3, "b": 3, "c": 2})
	m.edit("web", replicas(3))
	m.settle()
	wantOn(t, m, "web", map[string]int{"a": 1, "b": 1, "c": 1})
	if got := len(m.tasks()); got != 3 {
		t.Errorf("tasks that were removed are still there: got %d, want 3\n%s", got, m)
	}
	m.edit("web", replicas(5))
	m.settle()
	if got := m.running("web"); got != 5 {
		t.Errorf("running: got %d, want 5\n%s", got, m)
	}
	m.edit("web", replicas(0))
	m.settle()
	if got := len(m.tasks()); got != 0 {
		t.Errorf("tasks after scaling to 0: got %d\n%s", got, m)
	}
}

func TestPlan_GlobalFollowsNodes(t *testing.T) {
	m := clusterOf(t, "a", "b", "c")
	m.setNode("b", pause)
	m.addService("agent", global, constraint("node.hostname!=c"))
	m.settle()
	wantOn(t, m, "agent", map[string]int{"a": 1})
	m.setNode("b", activate)
	m.addNode("d")
	m.settle()
	wantOn(t, m, "agent", map[string]int{"a": 1, "b": 1, "d": 1})
	m.setNode("a", drain)
	m.setState("b", swarmv1.NodeState_DOWN)
	m.settle()
	wantOn(t, m, "agent", map[string]int{"d": 1})
	m.setNode("a", activate)
	m.setState("b", swarmv1.NodeState_READY)
	m.settle()
	wantOn(t, m, "agent", map[string]int{"a": 1, "b": 1, "d": 1})
	if got := m.running("agent"); got != 3 {
		t.Errorf("running: got %d, want 3\n%s", got, m)
	}
	m.drop("1/d")
	m.drop("2/d")
	m.settle()
	wantOn(t, m, "agent", map[string]int{"a": 1, "b": 1})
}

func TestPlan_DrainedNodeLosesItsTasks(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", replicas(4), updating(func(u *swarmv1.UpdateConfig) { u.Parallelism = 0 }))
	m.settle()
	m.setNode("a", drain)
	m.plan()
	// The new tasks prepare and wait for the old ones.
	ready := 0
	for _, x := range m.tasks() {
		if x.DesiredState == swarmv1.TaskState_READY {
			ready++
		}
	}
	if ready != 2 {
		t.Fatalf("waiting replacements: got %d, want 2\n%s", ready, m)
	}
	m.settle()
	wantOn(t, m, "web", map[string]int{"b": 4})
	m.setNode("a", activate)
	m.settle()
	wantOn(t, m, "web", map[string]int{"b": 4})
}

func TestPlan_PausedNodeKeepsItsTasks(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", replicas(2))
	m.settle()
	m.setNode("a", pause)
	m.edit("web", replicas(4))
	m.settle()
	wantOn(t, m, "web", map[string]int{"a": 1, "b": 3})
}

func TestPlan_LostNodeIsReplacedAtOnce(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", replicas(4))
	m.settle()
	m.setState("a", swarmv1.NodeState_DOWN)
	m.settle()
	wantOn(t, m, "web", map[string]int{"b": 4})
	if got := m.running("web"); got != 4 {
		t.Fatalf("running without a pause: got %d, want 4\n%s", got, m)
	}
	m.setState("a", swarmv1.NodeState_READY)
	m.settle()
	for _, x := range m.tasks() {
		if st := m.status(x.Id); x.NodeId == "a" && st.State != swarmv1.TaskState_SHUTDOWN {
			t.Errorf("task of the returned node: got %s, want SHUTDOWN\n%s", st.State, m)
		}
	}
	wantOn(t, m, "web", map[string]int{"b": 4})
}

func TestPlan_TasksOfLongLostNodeAreOrphaned(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", replicas(2))
	m.settle()
	m.setState("a", swarmv1.NodeState_DOWN)
	m.pass(23 * time.Hour)
	states := map[swarmv1.TaskState]int{}
	for _, x := range m.tasks() {
		states[m.status(x.Id).State]++
	}
	if diff := cmp.Diff(map[swarmv1.TaskState]int{swarmv1.TaskState_RUNNING: 3}, states); diff != "" {
		t.Fatalf("after 23 h (-want +got):\n%s", diff)
	}
	m.pass(2 * time.Hour)
	clear(states)
	for _, x := range m.tasks() {
		states[m.status(x.Id).State]++
	}
	want := map[swarmv1.TaskState]int{swarmv1.TaskState_RUNNING: 2, swarmv1.TaskState_ORPHANED: 1}
	if diff := cmp.Diff(want, states); diff != "" {
		t.Fatalf("after 25 h (-want +got):\n%s", diff)
	}
}

func TestPlan_RemovedNodeLeavesNothing(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", replicas(4))
	m.addService("agent", global)
	m.settle()
	m.setState("a", swarmv1.NodeState_DOWN)
	m.settle()
	m.drop("1/a")
	m.drop("2/a")
	m.settle()
	wantOn(t, m, "web", map[string]int{"b": 4})
	wantOn(t, m, "agent", map[string]int{"b": 1})
	for _, x := range m.tasks() {
		if x.NodeId == "a" && x.ServiceId == "agent" {
			t.Errorf("a global task of a removed node is left:\n%s", m)
		}
	}
}

func TestPlan_RemovedServiceLeavesNothing(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", replicas(3), hostPortOf(8080))
	m.settle()
	wantOn(t, m, "web", map[string]int{"a": 1, "b": 1})
	m.put(&swarmv1.Endpoint{ServiceId: "web"})
	m.put(&swarmv1.Claim{Key: "port/ingress/tcp/80", Owner: "web"})
	m.setState("b", swarmv1.NodeState_DOWN)
	m.settle()
	s := m.service("web").CloneVT()
	s.PendingDelete = true
	m.put(s)
	m.settle()
	for k := range m.rows {
		if k[0] != '1' && k[0] != '2' {
			t.Errorf("left: %s", k)
		}
	}
	if got := m.state.String(); strings.Contains(got, "service ") || !strings.HasSuffix(got, "tasks 0 unmatched statuses 0 claims 0 endpoints 0 waiting 0\n") {
		t.Errorf("the state keeps something:\n%s", got)
	}
}

func TestPlan_NodeThatTakesNoTasksSaysWhy(t *testing.T) {
	m := clusterOf(t, "a")
	st, _ := m.rows["2/a"].(*swarmv1.NodeState)
	st = st.CloneVT()
	st.Description.Unavailable = "its disk is 100% full: make room"
	m.put(st)
	m.addService("web", replicas(1))
	m.settle()
	for _, x := range m.tasks() {
		st := m.status(x.Id)
		if got, want := st.GetErr(), "no suitable node (1 node not available for new tasks: its disk is 100% full)"; got != want {
			t.Errorf("err: got %q, want %q", got, want)
		}
		if got, want := st.GetUnplaced().GetNearest(), "a: takes no tasks: its disk is 100% full: make room"; got != want {
			t.Errorf("nearest: got %q, want %q", got, want)
		}
	}
}

func TestPlan_UnplacedTasksAreExplained(t *testing.T) {
	m := clusterOf(t, "a", "b", "c")
	m.setNode("c", drain)
	m.setNode("a", func(n *swarmv1.Node) { n.Spec.Labels["zone"] = "east" })
	m.addService("web", replicas(3), reserve(3e9, 1<<30), constraint("node.labels.zone==east"))
	m.settle()
	wantOn(t, m, "web", map[string]int{"a": 1})
	var st *swarmv1.TaskStatus
	for _, x := range m.tasks() {
		if s := m.status(x.Id); s.State == swarmv1.TaskState_PENDING {
			st = s
		}
	}
	want := "no suitable node (1 node not available for new tasks; scheduling constraints not satisfied on 1 node; insufficient resources on 1 node)"
	if st.GetErr() != want {
		t.Errorf("err: got %q, want %q", st.GetErr(), want)
	}
	if got, want := st.GetUnplaced().GetNearest(), "a: needs 3 CPUs, 1 free"; got != want {
		t.Errorf("nearest: got %q, want %q", got, want)
	}
	plans, index := m.plans, m.index
	m.put(m.rows["2/b"]) // nothing has changed
	m.settle()
	if m.index != index+1 {
		t.Errorf("an explanation was written again, in %d plans", m.plans-plans)
	}
	m.setNode("b", func(n *swarmv1.Node) { n.Spec.Labels["zone"] = "east" })
	m.settle()
	wantOn(t, m, "web", map[string]int{"a": 1, "b": 1})
	m.edit("web", replicas(1))
	m.settle()
	if got := len(m.tasks()); got != 1 {
		t.Errorf("tasks: got %d, want 1\n%s", got, m)
	}
}

func TestPlan_HostPortsAreClaimed(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", replicas(3), hostPortOf(80))
	m.settle()
	wantOn(t, m, "web", map[string]int{"a": 1, "b": 1})
	m.addService("api", hostPortOf(80))
	m.settle()
	wantOn(t, m, "api", map[string]int{})
	for _, task := range m.tasks() {
		if got, want := m.status(task.GetId()).GetUnplaced().GetNearest(), "a: port tcp/80 is used by a task of service web"; task.GetServiceId() == "api" && got != want {
			t.Errorf("nearest: got %q, want %q", got, want)
		}
	}
	m.edit("web", replicas(1))
	m.settle()
	if got := m.running("web") + m.running("api"); got != 2 {
		t.Errorf("running: got %d, want 2\n%s", got, m)
	}
	claims := 0
	for k := range m.rows {
		if k[0] == '9' {
			claims++
		}
	}
	if claims != 2 {
		t.Errorf("claims: got %d, want 2", claims)
	}
}

func TestPlan_HostPortsOfSingleAddresses(t *testing.T) {
	m := clusterOf(t, "a")
	on := func(ip string) func(*swarmv1.ServiceSpec) {
		return func(s *swarmv1.ServiceSpec) {
			hostPortOf(53)(s)
			s.EndpointSpec.Ports[0].HostIp = ip
		}
	}
	for _, step := range []struct {
		name, ip string
		runs     int
	}{
		{"first", "192.0.2.1", 1}, {"second", "192.0.2.2", 1}, {"third", "::ffff:192.0.2.1", 0}, {"all", "", 0}, {"any", "0.0.0.0", 0},
	} {
		m.addService(step.name, replicas(1), on(step.ip))
		m.settle()
		if got := m.running(step.name); got != step.runs {
			t.Errorf("port 53 on %q: %d run, want %d\n%s", step.ip, got, step.runs, m)
		}
	}
	m.edit("first", replicas(0))
	m.edit("second", replicas(0))
	m.settle()
	if got := m.running("third") + m.running("all") + m.running("any"); got != 1 {
		t.Errorf("when the addresses are free %d run, want 1\n%s", got, m)
	}
}

func TestPlan_SpreadOverLabels(t *testing.T) {
	m := newModel(t)
	for id, zone := range map[string]string{"a": "x", "b": "x", "c": "x", "d": "y", "e": "z"} {
		m.addNode(id, func(n *swarmv1.Node, _ *swarmv1.NodeState) { n.Spec.Labels["zone"] = zone })
	}
	m.addService("web", replicas(9), func(s *swarmv1.ServiceSpec) {
		placementOf(s).Preferences = []*swarmv1.PlacementPreference{{Preference: &swarmv1.PlacementPreference_Spread{Spread: &swarmv1.SpreadOver{SpreadDescriptor: "node.labels.zone"}}}}
	})
	m.settle()
	wantOn(t, m, "web", map[string]int{"a": 1, "b": 1, "c": 1, "d": 3, "e": 3})
}

func TestPlan_MaxReplicasPerNode(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", replicas(5), func(s *swarmv1.ServiceSpec) { placementOf(s).MaxReplicas = 2 })
	m.settle()
	wantOn(t, m, "web", map[string]int{"a": 2, "b": 2})
}

func TestPlan_GenericResources(t *testing.T) {
	m := newModel(t)
	m.addNode("a", func(_ *swarmv1.Node, s *swarmv1.NodeState) {
		s.Description.Resources.Generic = []*swarmv1.GenericResource{{Kind: "gpu", Named: "g0"}, {Kind: "gpu", Named: "g1"}, {Kind: "ssd", Value: 3}}
	})
	m.addService("ml", replicas(3), func(s *swarmv1.ServiceSpec) {
		reserve(0, 0)(s)
		s.TaskTemplate.Resources.Reservations.Generic = []*swarmv1.GenericResource{{Kind: "gpu", Value: 1}, {Kind: "ssd", Value: 1}}
	})
	m.settle()
	wantOn(t, m, "ml", map[string]int{"a": 2})
	got := map[string]int{}
	for _, x := range m.tasks() {
		for _, g := range x.AssignedGenericResources {
			got[g.Kind+g.Named] += int(g.Value)
		}
	}
	if want := map[string]int{"gpug0": 0, "gpug1": 0, "ssd": 2}; !maps.Equal(got, want) {
		t.Errorf("assigned: got %v, want %v", got, want)
	}
}

func TestPlan_PriorityTakesTheRoomThatIsLeft(t *testing.T) {
	m := clusterOf(t, "a")
	m.addService("aaa", replicas(2), reserve(2e9, 0))
	m.addService("zzz", replicas(2), reserve(2e9, 0), func(s *swarmv1.ServiceSpec) { s.Priority = 5 })
	m.settle()
	wantOn(t, m, "zzz", map[string]int{"a": 2})
	wantOn(t, m, "aaa", map[string]int{})
}

// Slots without room are counted, not stored, so a number of replicas that is 100 times too high by
// mistake costs almost nothing.
func TestPlan_SlotsWithoutRoomAreCounted(t *testing.T) {
	m := clusterOf(t)
	m.addService("many", replicas(50_000), reserve(1e9, 0))
	m.settle()
	if got := len(m.tasks()); got != maxWaiting {
		t.Fatalf("tasks that wait: got %d, want %d", got, maxWaiting)
	}
	m.addNode("a", func(_ *swarmv1.Node, s *swarmv1.NodeState) { s.Description.Resources.NanoCpus = 1500e9 })
	m.settle()
	if got := m.running("many"); got != 1500 {
		t.Errorf("running with room for 1500: got %d", got)
	}
	if got := len(m.tasks()); got != 1500+maxWaiting {
		t.Errorf("tasks with room for 1500: got %d, want %d", got, 1500+maxWaiting)
	}
	m.edit("many", replicas(2000))
	m.settle()
	if got := len(m.tasks()); got != 2000 {
		t.Errorf("tasks of 2000 replicas: got %d", got)
	}
	m.edit("many", replicas(3))
	m.settle()
	if got := len(m.tasks()); got != 3 || m.running("many") != 3 {
		t.Errorf("tasks of 3 replicas: got %d, of which %d run", got, m.running("many"))
	}
}

// The memory that plans share holds nothing of a removed service.
func TestPlan_ScratchHoldsNothing(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", replicas(100))
	m.settle()
	m.edit("web", replicas(0))
	m.settle()
	for _, sp := range m.planner.slotPlans[:cap(m.planner.slotPlans)] {
		if sp.slot != nil {
			t.Fatalf("slot %v of a removed task is kept", sp.slot.Key)
		}
	}
}
