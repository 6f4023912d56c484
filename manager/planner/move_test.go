package planner

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	swarmv1 "swarm/proto/swarm/v1"
)

func order(parallelism uint64, delay time.Duration, o swarmv1.UpdateConfig_Order) func(*swarmv1.ServiceSpec) {
	return updating(func(u *swarmv1.UpdateConfig) {
		u.Parallelism, u.Delay, u.Order = parallelism, durationpb.New(delay), o
	})
}

const (
	stopFirst  = swarmv1.UpdateConfig_STOP_FIRST
	startFirst = swarmv1.UpdateConfig_START_FIRST
)

// fewest settles, and returns the smallest number of tasks of the service that ran meanwhile.
func (m *model) fewest(service string) int {
	m.t.Helper()
	least := m.running(service)
	for m.plan()+m.work() > 0 {
		least = min(least, m.running(service))
	}
	return least
}

// onFirstNode returns a cluster whose service has all tasks on node a, beside an empty node b.
func onFirstNode(t *testing.T, n uint64, edit ...func(*swarmv1.ServiceSpec)) *model {
	m := clusterOf(t, "a")
	m.addService("web", append([]func(*swarmv1.ServiceSpec){replicas(n)}, edit...)...)
	m.settle()
	m.addNode("b")
	return m
}

func TestPlan_DrainObeysTheUpdateConfig(t *testing.T) {
	for name, c := range map[string]struct {
		edit   func(*swarmv1.ServiceSpec)
		fewest int
	}{
		"one at a time":   {order(1, 0, stopFirst), 5},
		"two at a time":   {order(2, 0, stopFirst), 4},
		"all at once":     {order(0, 0, stopFirst), 0},
		"start-first":     {order(2, 0, startFirst), 6},
		"all start first": {order(0, 0, startFirst), 6},
	} {
		t.Run(name, func(t *testing.T) {
			m := onFirstNode(t, 6, c.edit)
			m.setNode("a", drain)
			if got := m.fewest("web"); got != c.fewest {
				t.Errorf("fewest running: got %d, want %d", got, c.fewest)
			}
			wantOn(t, m, "web", map[string]int{"b": 6})
		})
	}
}

// A node that becomes available again keeps the tasks that have not moved yet.
func TestPlan_DrainIsAbandoned(t *testing.T) {
	m := onFirstNode(t, 6, order(2, 10*time.Second, stopFirst))
	m.setNode("a", drain)
	m.settle()
	wantOn(t, m, "web", map[string]int{"a": 4, "b": 2})
	m.pass(10 * time.Second)
	m.settle()
	wantOn(t, m, "web", map[string]int{"a": 2, "b": 4})
	m.setNode("a", activate)
	m.pass(time.Minute)
	m.settle()
	wantOn(t, m, "web", map[string]int{"a": 2, "b": 4})
}

// Tasks that no node takes leave in stop-first order, and stay in start-first order.
func TestPlan_DrainWithNowhereToGo(t *testing.T) {
	for o, want := range map[swarmv1.UpdateConfig_Order]int{stopFirst: 0, startFirst: 3} {
		m := clusterOf(t, "a")
		m.addService("web", replicas(3), order(1, 0, o))
		m.settle()
		m.setNode("a", drain)
		m.settle()
		if got := m.running("web"); got != want {
			t.Errorf("%s: running: got %d, want %d\n%s", o, got, want, m)
		}
		m.addNode("b")
		m.settle()
		wantOn(t, m, "web", map[string]int{"b": 3})
	}
}

// An update and a drain together replace no more tasks at once than the parallelism allows.
func TestPlan_DrainDuringAnUpdate(t *testing.T) {
	m := onFirstNode(t, 6, order(2, 0, stopFirst))
	m.edit("web", image("docker.io/library/web:2"))
	m.plan()
	m.work()
	m.setNode("a", drain)
	if got := m.fewest("web"); got != 4 {
		t.Errorf("fewest running: got %d, want 4", got)
	}
	wantOn(t, m, "web", map[string]int{"b": 6})
	if got := m.ofRevision("web"); got[2] != 6 {
		t.Errorf("running by revision: got %v, want 6 of revision 2", got)
	}
}

// A moved task that fails on its new node does not hold up the drain.
func TestPlan_DrainGoesOnAfterAFailure(t *testing.T) {
	m := onFirstNode(t, 3, order(1, 0, stopFirst))
	m.setNode("a", drain)
	m.plan()
	m.work()
	for _, x := range m.tasks() {
		if x.NodeId == "b" {
			m.report(x.Id, swarmv1.TaskState_FAILED)
		}
	}
	m.settle()
	if got := m.on("web")["a"]; got != 0 {
		t.Errorf("tasks on the drained node: got %d, want none\n%s", got, m)
	}
}

func TestPlan_DrainOfAGlobalService(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("agent", global)
	m.settle()
	m.setNode("a", drain)
	m.settle()
	wantOn(t, m, "agent", map[string]int{"b": 1})
	m.setNode("a", activate)
	m.settle()
	wantOn(t, m, "agent", map[string]int{"a": 1, "b": 1})
}
