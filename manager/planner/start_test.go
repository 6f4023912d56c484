package planner

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	swarmv1 "swarm/proto/swarm/v1"
)

func singleWriter(s *swarmv1.ServiceSpec) { s.SingleWriter = true }

// split returns the tasks that should run (live) and the others (dead).
func (m *model) split() (live, dead []*swarmv1.Task) {
	for _, t := range m.tasks() {
		if t.DesiredState <= swarmv1.TaskState_RUNNING {
			live = append(live, t)
		} else {
			dead = append(dead, t)
		}
	}
	return live, dead
}

// only returns the one live task, and fails the test if its desired state is not want.
func (m *model) only(want swarmv1.TaskState) *swarmv1.Task {
	m.t.Helper()
	live, _ := m.split()
	if len(live) != 1 || live[0].DesiredState != want {
		m.t.Fatalf("live tasks: got %v, want one that should be %s:\n%s", live, want, m)
	}
	return live[0]
}

// loseNode sets the node of the only live task to DOWN.
func (m *model) loseNode() (id string) {
	m.t.Helper()
	id = m.only(swarmv1.TaskState_RUNNING).NodeId
	m.setState(id, swarmv1.NodeState_DOWN)
	m.settle()
	return id
}

func TestPlan_SingleWriterWaitsForTheFence(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("db", singleWriter)
	m.settle()
	m.loseNode()
	m.only(swarmv1.TaskState_READY)
	m.pass(10 * time.Second)
	m.only(swarmv1.TaskState_READY)
	m.pass(2 * time.Second) // The lease is 10 s, and the margin is 1 s.
	m.only(swarmv1.TaskState_RUNNING)
}

// If a node comes back before it is fenced, the new task waits for the report of the node.
func TestPlan_SingleWriterWaitsForANodeThatIsBack(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("db", singleWriter)
	m.settle()
	lost := m.loseNode()
	m.setState(lost, swarmv1.NodeState_READY)
	m.plan()
	m.only(swarmv1.TaskState_READY)
	m.now = m.now.Add(time.Hour)
	m.plan()
	m.only(swarmv1.TaskState_READY)
	m.settle() // the node reports the end of the task
	m.only(swarmv1.TaskState_RUNNING)
}

// Nothing marks a removed node as fenced, so the new task waits for the length of a lease.
func TestPlan_SingleWriterOnARemovedNode(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("db", singleWriter)
	m.settle()
	node := m.only(swarmv1.TaskState_RUNNING).NodeId
	m.drop("1/" + node)
	m.drop("2/" + node)
	m.settle()
	m.only(swarmv1.TaskState_READY)
	m.pass(10 * time.Second)
	m.only(swarmv1.TaskState_READY)
	m.pass(2 * time.Second)
	m.only(swarmv1.TaskState_RUNNING)
}

func TestPlan_SingleWriterScaledDownAndUp(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("db", singleWriter)
	m.settle()
	m.loseNode()
	m.edit("db", replicas(0))
	m.settle()
	m.edit("db", replicas(1))
	m.settle()
	m.only(swarmv1.TaskState_READY)
	m.pass(12 * time.Second)
	m.only(swarmv1.TaskState_RUNNING)
}

// A task that was asked to stop and has not ended delays every successor, also after a successor
// was rejected: in a stop-first update, a rollback and a drain.
func TestPlan_NoThirdTaskWhileOneStops(t *testing.T) {
	for name, strike := range map[string]func(*model){
		"update":   func(m *model) { m.edit("web", image("docker.io/library/web:2")) },
		"rollback": func(m *model) { m.edit("web", image("docker.io/library/web:2")) },
		"drain":    func(m *model) { m.setNode(m.only(swarmv1.TaskState_RUNNING).NodeId, drain) },
	} {
		t.Run(name, func(t *testing.T) {
			m := clusterOf(t, "a", "b")
			m.addService("web", updating(func(u *swarmv1.UpdateConfig) {
				if name == "rollback" {
					u.FailureAction = swarmv1.UpdateConfig_ROLLBACK
				}
			}))
			m.settle()
			old := m.only(swarmv1.TaskState_RUNNING)
			m.obeys = func(x *swarmv1.Task) bool { return x.Id != old.Id }
			m.rejects = func(x *swarmv1.Task) bool { return x.Id != old.Id }
			strike(m)
			// Attempts at 0, 5 and 15 s; a rollback resets the delay.
			if got := m.attempts(t, 19*time.Second); got > 4 {
				t.Errorf("attempts in 19 s with a restart delay of 5 s: got %d, want at most 4\n%s", got, m)
			}
			m.rejects = never
			m.pass(time.Minute)
			m.only(swarmv1.TaskState_READY)
			m.obeys = always
			m.pass(time.Minute)
			m.only(swarmv1.TaskState_RUNNING)
		})
	}
}

// The next leader has another clock. A wait continues from the time at which it started to lead,
// and is not longer than it was.
func TestPlan_ClockOfTheNextLeader(t *testing.T) {
	for _, skew := range []time.Duration{-time.Hour, time.Hour} {
		t.Run(skew.String(), func(t *testing.T) {
			m := clusterOf(t, "a", "b")
			m.addService("web", restarting(func(p *swarmv1.RestartPolicy) { p.Delay = durationpb.New(20 * time.Second) }))
			m.settle()
			m.report(m.only(swarmv1.TaskState_RUNNING).Id, swarmv1.TaskState_FAILED)
			m.settle()
			m.only(swarmv1.TaskState_READY)
			m.now = m.now.Add(skew)
			m.changeLeader()
			m.pass(21 * time.Second)
			m.only(swarmv1.TaskState_RUNNING)

			m.edit("web", image("docker.io/library/web:2"))
			m.pass(time.Second)
			m.now = m.now.Add(skew)
			m.changeLeader()
			m.pass(6 * time.Second)
			if got := m.service("web").UpdateStatus.GetState(); got != swarmv1.UpdateStatus_COMPLETED {
				t.Errorf("update after the monitor time: got %s", got)
			}
		})
	}
}
