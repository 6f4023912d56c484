package planner

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	swarmv1 "swarm/proto/swarm/v1"
)

func updating(edit func(*swarmv1.UpdateConfig)) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) { edit(s.UpdateConfig) }
}

// ofRevision counts the tasks that run and should run, by revision.
func (m *model) ofRevision(service string) map[uint64]int {
	out := map[uint64]int{}
	for _, t := range m.tasks() {
		if t.ServiceId == service && t.DesiredState == swarmv1.TaskState_RUNNING && m.status(t.Id).State == swarmv1.TaskState_RUNNING {
			out[t.Revision]++
		}
	}
	return out
}

func TestPlan_UpdateRollsByParallelism(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", replicas(6), updating(func(u *swarmv1.UpdateConfig) {
		u.Parallelism, u.Delay = 2, durationpb.New(10*time.Second)
	}))
	m.settle()
	m.edit("web", image("docker.io/library/web:2"))
	for _, want := range []int{2, 4, 6} {
		m.settle()
		if got := m.ofRevision("web"); got[2] != want || got[1]+got[2] != 6 {
			t.Fatalf("running by revision: got %v, want %d new ones of 6\n%s", got, want, m)
		}
		if got := m.service("web").UpdateStatus.State; got != swarmv1.UpdateStatus_UPDATING {
			t.Fatalf("update state: got %s, want UPDATING", got)
		}
		m.now = m.now.Add(10 * time.Second)
	}
	m.settle()
	if got := m.service("web").UpdateStatus; got.State != swarmv1.UpdateStatus_COMPLETED || got.CompletedAt == nil {
		t.Fatalf("update status: got %v, want COMPLETED", got)
	}
}

func TestPlan_UpdateStopsFirst(t *testing.T) {
	m := clusterOf(t, "a")
	m.addService("web", replicas(1))
	m.settle()
	m.edit("web", image("docker.io/library/web:2"))
	most := 0
	for m.plan()+m.work() > 0 {
		n := 0
		for _, x := range m.tasks() {
			if m.status(x.Id).State == swarmv1.TaskState_RUNNING {
				n++
			}
		}
		most = max(most, n)
	}
	if most != 1 || m.ofRevision("web")[2] != 1 {
		t.Fatalf("running at once: got %d, want 1\n%s", most, m)
	}
}

func TestPlan_UpdateStartsFirst(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", replicas(3), updating(func(u *swarmv1.UpdateConfig) { u.Order = swarmv1.UpdateConfig_START_FIRST }))
	m.settle()
	m.edit("web", image("docker.io/library/web:2"))
	least := 3
	for m.plan()+m.work() > 0 {
		n := m.ofRevision("web")
		least = min(least, n[1]+n[2])
	}
	if least != 3 || m.ofRevision("web")[2] != 3 {
		t.Fatalf("least running: got %d, want 3\n%s", least, m)
	}
	m.pass(time.Minute)
	if got := m.service("web").UpdateStatus.State; got != swarmv1.UpdateStatus_COMPLETED {
		t.Errorf("update state: got %s, want COMPLETED", got)
	}
}

func failsOn(revision uint64) func(*swarmv1.Task) bool {
	return func(t *swarmv1.Task) bool { return t.Revision == revision }
}

func TestPlan_FailedUpdatePauses(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", replicas(4))
	m.settle()
	m.fails = failsOn(2)
	m.edit("web", image("docker.io/library/bad"))
	m.pass(2 * time.Minute)
	st := m.service("web").UpdateStatus
	if st.State != swarmv1.UpdateStatus_PAUSED || !strings.HasPrefix(st.Message, "update paused due to failure or early termination of task ") {
		t.Fatalf("update status: got %v, want PAUSED", st)
	}
	if got := m.ofRevision("web")[1]; got != 3 {
		t.Errorf("untouched tasks: got %d, want 3\n%s", got, m)
	}
	// Losing a node while the update is paused must not roll out the bad revision.
	m.setState("a", swarmv1.NodeState_DOWN)
	m.pass(time.Minute)
	if got := m.ofRevision("web")[1]; got != 3 {
		t.Errorf("old tasks after the loss of a node: got %d, want 3\n%s", got, m)
	}
	m.fails = never
	m.edit("web", image("docker.io/library/good"))
	m.pass(2 * time.Minute)
	if got := m.ofRevision("web")[3]; got != 4 {
		t.Errorf("tasks of the next update: got %d, want 4\n%s", got, m)
	}
}

// New tasks that end at once with exit code 0 pause the update as failures do, unless the restart
// policy lets tasks end.
func TestPlan_EarlyEndPausesTheUpdate(t *testing.T) {
	for name, tc := range map[string]struct {
		condition swarmv1.RestartPolicy_Condition
		order     swarmv1.UpdateConfig_Order
		want      swarmv1.UpdateStatus_State
	}{
		"any, stop-first":  {swarmv1.RestartPolicy_ANY, swarmv1.UpdateConfig_STOP_FIRST, swarmv1.UpdateStatus_PAUSED},
		"any, start-first": {swarmv1.RestartPolicy_ANY, swarmv1.UpdateConfig_START_FIRST, swarmv1.UpdateStatus_PAUSED},
		"on-failure":       {swarmv1.RestartPolicy_ON_FAILURE, swarmv1.UpdateConfig_STOP_FIRST, swarmv1.UpdateStatus_COMPLETED},
		"none":             {swarmv1.RestartPolicy_NONE, swarmv1.UpdateConfig_STOP_FIRST, swarmv1.UpdateStatus_COMPLETED},
	} {
		t.Run(name, func(t *testing.T) {
			m := clusterOf(t, "a", "b")
			m.addService("web", replicas(4), restarting(func(p *swarmv1.RestartPolicy) { p.Condition = tc.condition }), updating(func(u *swarmv1.UpdateConfig) { u.Order = tc.order }))
			m.settle()
			m.completes = failsOn(2)
			m.edit("web", image("docker.io/library/bad"))
			m.pass(2 * time.Minute)
			if st := m.service("web").UpdateStatus; st.State != tc.want {
				t.Errorf("update status: got %v, want %v\n%s", st, tc.want, m)
			}
			// The second task follows as soon as the first runs, which is before it ends.
			if got := m.ofRevision("web")[1]; tc.want == swarmv1.UpdateStatus_PAUSED && got < 2 {
				t.Errorf("untouched tasks: got %d, want 2 at least\n%s", got, m)
			}
		})
	}
}

func TestPlan_FailedUpdateRollsBack(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", replicas(4), updating(func(u *swarmv1.UpdateConfig) {
		u.FailureAction, u.Parallelism = swarmv1.UpdateConfig_ROLLBACK, 2
	}))
	m.settle()
	m.fails = failsOn(2)
	m.edit("web", image("docker.io/library/bad"))
	m.pass(2 * time.Minute)
	s := m.service("web")
	if s.UpdateStatus.State != swarmv1.UpdateStatus_ROLLBACK_COMPLETED || s.Revision != 1 {
		t.Fatalf("after a failed update: got revision %d, %v\n%s", s.Revision, s.UpdateStatus, m)
	}
	if got := m.ofRevision("web"); got[1] != 4 {
		t.Errorf("running by revision: got %v, want 4 of the first\n%s", got, m)
	}
}

func TestPlan_FailedUpdateContinues(t *testing.T) {
	m := clusterOf(t, "a")
	m.addService("web", replicas(3), updating(func(u *swarmv1.UpdateConfig) { u.FailureAction = swarmv1.UpdateConfig_CONTINUE }))
	m.settle()
	m.fails = func(x *swarmv1.Task) bool { return x.Revision == 2 && x.Slot == 1 }
	m.edit("web", image("docker.io/library/bad"))
	m.pass(time.Minute)
	if got := m.ofRevision("web"); got[2] != 2 || got[1] != 0 {
		t.Errorf("running by revision: got %v, want 2 of the second\n%s", got, m)
	}
	if st := m.service("web").UpdateStatus; st.State != swarmv1.UpdateStatus_COMPLETED {
		t.Errorf("update status: got %v, want COMPLETED", st)
	}
}

func TestPlan_UserRollsBack(t *testing.T) {
	m := clusterOf(t, "a")
	m.addService("web", replicas(2))
	m.settle()
	m.edit("web", image("docker.io/library/web:2"))
	m.pass(time.Minute)
	s := m.service("web").CloneVT()
	s.Revision, s.PreviousRevision = 1, 2
	s.UpdateStatus = &swarmv1.UpdateStatus{State: swarmv1.UpdateStatus_ROLLBACK_STARTED, StartedAt: timestamppb.New(m.now)}
	m.put(s)
	m.pass(time.Minute)
	if got := m.ofRevision("web")[1]; got != 2 || m.service("web").UpdateStatus.State != swarmv1.UpdateStatus_ROLLBACK_COMPLETED {
		t.Errorf("after a roll back: got %d tasks of the first, %v\n%s", got, m.service("web").UpdateStatus, m)
	}
}

func TestPlan_ScalingReplacesNothing(t *testing.T) {
	m := clusterOf(t, "a")
	m.addService("web", replicas(2))
	m.settle()
	first := m.tasks()[0].Id
	m.edit("web", replicas(3))
	m.settle()
	if m.tasks()[0].Id != first || len(m.tasks()) != 3 || m.service("web").UpdateStatus != nil {
		t.Errorf("scaling replaced tasks:\n%s", m)
	}
}

func TestPlan_GlobalUpdate(t *testing.T) {
	m := clusterOf(t, "a", "b", "c")
	m.addService("agent", global)
	m.settle()
	m.edit("agent", image("docker.io/library/web:2"))
	m.pass(time.Minute)
	if got := m.ofRevision("agent"); got[2] != 3 || m.service("agent").UpdateStatus.State != swarmv1.UpdateStatus_COMPLETED {
		t.Errorf("running by revision: got %v, %v\n%s", got, m.service("agent").UpdateStatus, m)
	}
}

// A start-first update is stuck if the old tasks reserve resources that the new ones need. A change
// of the order to stop-first lets it continue, in a new update or in the same one.
func TestPlan_StopFirstUnblocksAnUpdate(t *testing.T) {
	stopFirst := updating(func(u *swarmv1.UpdateConfig) { u.Order = swarmv1.UpdateConfig_STOP_FIRST })
	force := func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ForceUpdate++ }
	for _, c := range []struct {
		name  string
		needs func(*swarmv1.ServiceSpec)
		edits []func(*swarmv1.ServiceSpec)
	}{
		{"port, forced", hostPortOf(8080), []func(*swarmv1.ServiceSpec){stopFirst, force}},
		{"port", hostPortOf(8080), []func(*swarmv1.ServiceSpec){stopFirst}},
		{"CPUs, forced", reserve(3e9, 0), []func(*swarmv1.ServiceSpec){stopFirst, force}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := clusterOf(t, "a", "b")
			m.addService("web", replicas(2), c.needs, updating(func(u *swarmv1.UpdateConfig) { u.Order = swarmv1.UpdateConfig_START_FIRST }))
			m.settle()
			m.edit("web", force)
			m.pass(time.Minute)
			if got := m.ofRevision("web"); got[1] != 2 {
				t.Fatalf("running while the update waits: got %v, want 2 old ones\n%s", got, m)
			}
			m.edit("web", c.edits...)
			least := 2
			for m.plan()+m.work() > 0 {
				least = min(least, m.running("web"))
			}
			if least != 1 {
				t.Errorf("least running, with a parallelism of 1: got %d\n%s", least, m)
			}
			m.pass(time.Minute)
			if got := m.ofRevision("web"); got[1] != 0 || m.running("web") != 2 {
				t.Errorf("running after the update: got %v, want 2 new ones\n%s", got, m)
			}
			if st := m.service("web").UpdateStatus; st.GetState() != swarmv1.UpdateStatus_COMPLETED {
				t.Errorf("update status: got %v, want COMPLETED", st)
			}
		})
	}
}

// The tasks that an update stops do not count when the new tasks are spread.
func TestPlan_UpdateSpreadsTasks(t *testing.T) {
	m := clusterOf(t, "a")
	m.addService("web", replicas(6), updating(func(u *swarmv1.UpdateConfig) { u.Parallelism = 6 }))
	m.settle()
	m.addNode("b")
	m.edit("web", func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ForceUpdate++ })
	m.pass(time.Minute)
	if got := m.on("web"); got["a"] != 3 || got["b"] != 3 {
		t.Errorf("tasks by node: got %v, want 3 and 3\n%s", got, m)
	}
}

// Clocks of managers and workers differ. Versions decide whether a failure belongs to an update,
// and the manager's clock decides how long a task has run.
func TestPlan_UpdateUnderClocksThatDiffer(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", replicas(3))
	m.settle()
	m.fails = failsOn(2)
	m.edit("web", image("docker.io/library/bad"))
	m.plan()                      // starts under one leader
	m.now = m.now.Add(-time.Hour) // continues under another
	m.pass(time.Minute)
	if st := m.service("web").UpdateStatus; st.State != swarmv1.UpdateStatus_PAUSED {
		t.Errorf("update that fails under a leader whose clock is behind: got %v, want PAUSED\n%s", st, m)
	}

	m.fails = never
	m.edit("web", image("docker.io/library/good"))
	for range 20 {
		m.plan()
		m.work()
		for _, x := range m.tasks() {
			if st := m.status(x.Id).CloneVT(); st.State == swarmv1.TaskState_RUNNING && st.RunningSince.AsTime().Before(m.now.Add(time.Minute)) {
				st.RunningSince, st.Timestamp = timestamppb.New(m.now.Add(time.Hour)), timestamppb.New(m.now.Add(time.Hour))
				m.put(st)
			}
		}
		m.now = m.now.Add(5 * time.Second)
	}
	if st := m.service("web").UpdateStatus; st.State != swarmv1.UpdateStatus_COMPLETED {
		t.Errorf("update on workers whose clock is ahead: got %v, want COMPLETED\n%s", st, m)
	}
}

// A failure before an update that returns to the same template does not count against that update.
func TestPlan_UpdateCountsItsOwnFailuresOnly(t *testing.T) {
	m := clusterOf(t, "a")
	m.addService("web")
	m.fails = always
	m.pass(30 * time.Second)
	m.fails = never
	m.edit("web", image("docker.io/library/web:2"))
	m.pass(time.Minute)
	s := m.service("web").CloneVT()
	s.Revision, s.PreviousRevision = 1, 2
	s.UpdateStatus = &swarmv1.UpdateStatus{State: swarmv1.UpdateStatus_ROLLBACK_STARTED, StartedAt: timestamppb.New(m.now), StartedVersion: s.Meta.Version}
	m.put(s)
	m.pass(time.Minute)
	if st := m.service("web").UpdateStatus; st.State != swarmv1.UpdateStatus_ROLLBACK_COMPLETED {
		t.Errorf("rollback to what failed before: got %v, want ROLLBACK_COMPLETED\n%s", st, m)
	}
}
