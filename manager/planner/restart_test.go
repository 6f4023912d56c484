package planner

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	swarmv1 "swarm/proto/swarm/v1"
)

func restarting(edit func(*swarmv1.RestartPolicy)) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) { edit(s.TaskTemplate.RestartPolicy) }
}

func always(*swarmv1.Task) bool { return true }

func TestPlan_RestartWaitsForTheDelay(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web")
	m.settle()
	first := m.tasks()[0]
	m.report(first.Id, swarmv1.TaskState_FAILED)
	m.settle()
	if got := m.running("web"); got != 0 {
		t.Fatalf("running before the delay: got %d\n%s", got, m)
	}
	m.pass(5 * time.Second)
	if got := m.running("web"); got != 1 {
		t.Fatalf("running after the delay: got %d\n%s", got, m)
	}
	for _, x := range m.tasks() {
		if x.Id != first.Id && (x.Replaces != first.Id || x.Restarts.GetAttempts() != 1) {
			t.Errorf("replacement: got %v", x)
		}
	}
}

// A task that its node stopped, because the host was shut down, is replaced at once, whatever the
// restart policy says about failures.
func TestPlan_TaskThatItsNodeStoppedIsReplacedAtOnce(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web", restarting(func(p *swarmv1.RestartPolicy) { p.Condition = swarmv1.RestartPolicy_NONE }))
	m.settle()
	first := m.tasks()[0]
	m.report(first.Id, swarmv1.TaskState_SHUTDOWN)
	m.settle()
	if got := m.running("web"); got != 1 {
		t.Fatalf("running: got %d\n%s", got, m)
	}
	for _, x := range m.tasks() {
		if x.Id != first.Id && x.Restarts.GetAttempts() != 0 {
			t.Errorf("the host's shutdown counts as a restart: got %v", x)
		}
	}
}

func TestPlan_HistoryIsReaped(t *testing.T) {
	m := clusterOf(t, "a")
	m.addService("web", replicas(2))
	m.fails = always
	m.pass(10 * time.Minute)
	for _, x := range m.tasks() {
		if got := x.Restarts.GetAttempts(); got != 11 && m.status(x.Id).State < swarmv1.TaskState_RUNNING {
			t.Errorf("restart that is next after 10 minutes, with 5 s growing to 80 s: got %d, want 11", got)
		}
	}
	if got, want := len(m.tasks()), 2*(1+5); got != want {
		t.Errorf("rows of two crashing slots: got %d, want %d\n%s", got, want, m)
	}
	m.put(&swarmv1.Cluster{Id: "c", Spec: &swarmv1.ClusterSpec{Orchestration: &swarmv1.OrchestrationConfig{TaskHistoryRetentionLimit: 1}}})
	m.settle()
	if got, want := len(m.tasks()), 2*(1+1); got != want {
		t.Errorf("rows with a history of 1: got %d, want %d\n%s", got, want, m)
	}
}

// attempts counts the tasks of a service that a node received while d passes.
func (m *model) attempts(t *testing.T, d time.Duration) int {
	t.Helper()
	n := 0
	tries := m.rejects
	m.rejects = func(x *swarmv1.Task) bool { n++; return tries(x) }
	m.pass(d)
	m.rejects = tries
	return n
}

// A task that its node rejected is tried again after the restart delay, not at once.
func TestPlan_RejectedTaskWaitsForTheDelay(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web")
	m.rejects = always
	if got := m.attempts(t, 4*time.Second); got != 1 {
		t.Fatalf("attempts before the delay of 5 s: got %d, want 1\n%s", got, m)
	}
	next := m.tasks()[len(m.tasks())-1]
	if st := m.status(next.Id); st.State != swarmv1.TaskState_PENDING || next.StartAfter.AsTime().Sub(epoch) != 5*time.Second || next.Restarts.GetAttempts() != 1 {
		t.Errorf("what comes next: got %v %v, want a pending task, restart 1 after 5 s", next, st)
	}
	// at 5, 15, 35, 75, 155, 235 ... 555 s
	if got := m.attempts(t, 10*time.Minute-4*time.Second); got != 10 {
		t.Errorf("attempts in 10 minutes: got %d, want 10\n%s", got, m)
	}
	m.rejects = never
	m.pass(2 * time.Minute)
	if got := m.running("web"); got != 1 {
		t.Errorf("running when the node can: got %d\n%s", got, m)
	}
}

func TestPlan_RejectedTaskOfAServiceWithoutDelayWaits(t *testing.T) {
	m := clusterOf(t, "a")
	m.addService("web", restarting(func(p *swarmv1.RestartPolicy) { p.Delay = durationpb.New(0) }))
	m.rejects = always
	if got := m.attempts(t, time.Minute); got > 8 {
		t.Errorf("attempts in a minute with a restart delay of 0: got %d, want at most 8", got)
	}
}

// A delay that has grown returns to its first value after a task has run for ten times the delay.
// It does not grow after successes.
func TestPlan_DelayIsReset(t *testing.T) {
	m := clusterOf(t, "a")
	m.addService("web")
	m.fails = always
	m.pass(time.Minute) // 0, 5, 15, 35 s; the next is due at 75 s
	m.fails = never
	m.pass(time.Minute)
	wait := func(runs time.Duration, end swarmv1.TaskState) time.Duration {
		t.Helper()
		m.pass(runs)
		for _, x := range m.tasks() {
			if m.status(x.Id).State == swarmv1.TaskState_RUNNING {
				m.report(x.Id, end)
				m.settle()
				next := m.tasks()[len(m.tasks())-1]
				d := next.StartAfter.AsTime().Sub(m.now)
				m.pass(d)
				return d
			}
		}
		t.Fatalf("nothing runs:\n%s", m)
		return 0
	}
	if got, want := wait(0, swarmv1.TaskState_FAILED), 80*time.Second; got != want {
		t.Errorf("delay after the fifth failure, when a task has run for 45 s: got %v, want %v\n%s", got, want, m)
	}
	if got, want := wait(50*time.Second, swarmv1.TaskState_FAILED), 5*time.Second; got != want {
		t.Errorf("delay when a task has run for 50 s: got %v, want %v\n%s", got, want, m)
	}
	for range 3 {
		if got, want := wait(time.Second, swarmv1.TaskState_COMPLETE), 5*time.Second; got != want {
			t.Errorf("delay after a success: got %v, want %v\n%s", got, want, m)
		}
	}
}

// In a drain whose new tasks are rejected, the first comes at once and the second after the delay.
// None starts while the task of the drained node may still run.
func TestPlan_DrainWhoseTasksAreRejected(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("web")
	m.settle()
	first := m.tasks()[0]
	m.setNode(first.NodeId, drain)
	m.rejects = always
	tries := 0
	for range 20 { // the old task needs 20 s to stop
		m.plan()
		for _, x := range m.tasks() {
			if x.Id != first.Id && m.workOn(x) {
				tries++
			}
		}
		m.now = m.now.Add(time.Second)
	}
	if tries != 3 { // at 0, 5, 15 s
		t.Errorf("attempts in 20 s of a drain: got %d, want 3\n%s", tries, m)
	}
	m.rejects = never
	m.now = m.now.Add(2 * time.Minute)
	for range 20 {
		m.plan()
		for _, x := range m.tasks() {
			if x.Id != first.Id {
				m.workOn(x)
			}
		}
	}
	if got := m.running("web"); got != 0 {
		t.Errorf("running beside the task that stops: got %d\n%s", got, m)
	}
	m.pass(2 * time.Minute)
	if got := m.running("web"); got != 1 {
		t.Errorf("running: got %d\n%s", got, m)
	}
}

// A missing image is not a failure of the task: the other nodes are tried at once.
func TestPlan_NodesWithoutTheImageAreTriedAtOnce(t *testing.T) {
	m := clusterOf(t, "a", "b", "c", "d")
	m.addService("web")
	for range 3 {
		m.plan()
		for _, x := range m.tasks() {
			if st := m.status(x.Id).CloneVT(); st.State == swarmv1.TaskState_ASSIGNED {
				st.State, st.Err, st.Timestamp = swarmv1.TaskState_REJECTED, "no such image: load it with swarm image load", timestamppb.New(m.now)
				m.put(st)
			}
		}
	}
	m.pass(5 * time.Second)
	if got := m.running("web"); got != 1 {
		t.Errorf("running on the fourth node after one delay: got %d\n%s", got, m)
	}
}

func TestPlan_RestartConditions(t *testing.T) {
	for _, c := range []struct {
		name      string
		condition swarmv1.RestartPolicy_Condition
		end       swarmv1.TaskState
		want      int
	}{
		{"any after success", swarmv1.RestartPolicy_ANY, swarmv1.TaskState_COMPLETE, 1},
		{"any after failure", swarmv1.RestartPolicy_ANY, swarmv1.TaskState_FAILED, 1},
		{"on-failure after success", swarmv1.RestartPolicy_ON_FAILURE, swarmv1.TaskState_COMPLETE, 0},
		{"on-failure after failure", swarmv1.RestartPolicy_ON_FAILURE, swarmv1.TaskState_FAILED, 1},
		{"none after failure", swarmv1.RestartPolicy_NONE, swarmv1.TaskState_REJECTED, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := clusterOf(t, "a")
			m.addService("web", restarting(func(p *swarmv1.RestartPolicy) { p.Condition = c.condition }))
			m.settle()
			m.report(m.tasks()[0].Id, c.end)
			m.pass(time.Minute)
			if got := m.running("web"); got != c.want {
				t.Errorf("running: got %d, want %d\n%s", got, c.want, m)
			}
			// An update resets the delay.
			m.edit("web", image("docker.io/library/web:2"))
			m.pass(time.Minute)
			if got := m.running("web"); got != 1 {
				t.Errorf("running after an update: got %d, want 1\n%s", got, m)
			}
		})
	}
}

func TestPlan_MaxAttempts(t *testing.T) {
	m := clusterOf(t, "a")
	m.addService("web", restarting(func(p *swarmv1.RestartPolicy) { p.MaxAttempts = 3 }))
	m.fails = always
	m.pass(time.Hour)
	if got, want := len(m.tasks()), 4; got != want {
		t.Fatalf("tasks of 3 attempts: got %d, want %d\n%s", got, want, m)
	}
	m.fails = never
	m.edit("web", replicas(2))
	m.pass(time.Hour)
	if got := m.running("web"); got != 1 {
		t.Errorf("running of two slots, one exhausted: got %d, want 1\n%s", got, m)
	}
}

func TestPlan_MaxAttemptsInWindow(t *testing.T) {
	m := clusterOf(t, "a")
	m.addService("web", restarting(func(p *swarmv1.RestartPolicy) {
		p.MaxAttempts, p.Window = 2, durationpb.New(time.Minute)
	}))
	m.settle()
	for i := range 5 {
		var live string
		for _, x := range m.tasks() {
			if m.status(x.Id).State == swarmv1.TaskState_RUNNING {
				live = x.Id
			}
		}
		if live == "" {
			t.Fatalf("nothing runs after %d failures, all outside one window\n%s", i, m)
		}
		m.report(live, swarmv1.TaskState_FAILED)
		m.pass(40 * time.Second)
	}
	// each fails after 5 s; with a growing delay there would be fewer than 2 in a minute
	m.fails = always
	m.report(m.tasks()[len(m.tasks())-1].Id, swarmv1.TaskState_FAILED)
	m.pass(time.Hour)
	if got := m.running("web"); got != 0 {
		t.Errorf("running: got %d\n%s", got, m)
	}
	newest := m.tasks()[len(m.tasks())-1]
	if got := len(newest.Restarts.GetRecent()); got > 2 {
		t.Errorf("remembered restarts: got %d, want at most 2", got)
	}
}

func TestPlan_NodeWhereTasksFailIsAvoided(t *testing.T) {
	m := clusterOf(t, "a", "b", "c")
	m.put(&swarmv1.Cluster{Id: "c", Spec: &swarmv1.ClusterSpec{Orchestration: &swarmv1.OrchestrationConfig{TaskHistoryRetentionLimit: 10}}})
	m.addService("web", replicas(1), restarting(func(p *swarmv1.RestartPolicy) { p.Delay = durationpb.New(time.Second) }))
	m.fails = func(x *swarmv1.Task) bool { return x.NodeId == "a" }
	m.pass(30 * time.Second)
	if got := m.running("web"); got != 1 {
		t.Errorf("running: got %d, want 1, away from the node where it fails\n%s", got, m)
	}
}

func TestPlan_JobRunsItsCompletions(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("job", func(s *swarmv1.ServiceSpec) {
		s.Mode = &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_ReplicatedJob{ReplicatedJob: &swarmv1.ReplicatedJob{MaxConcurrent: 2, TotalCompletions: 5}}}
		s.TaskTemplate.RestartPolicy.Condition = swarmv1.RestartPolicy_ON_FAILURE
	})
	m.settle()
	if got := m.running("job"); got != 2 {
		t.Fatalf("at once: got %d, want 2\n%s", got, m)
	}
	m.completes = always
	m.pass(time.Minute)
	if got := len(m.tasks()); got != 5 {
		t.Fatalf("completions: got %d, want 5\n%s", got, m)
	}
	s := m.service("job").CloneVT()
	s.JobStatus = &swarmv1.JobStatus{JobIteration: 1}
	m.put(s)
	m.pass(time.Minute)
	again := 0
	for _, x := range m.tasks() {
		if x.JobIteration == 1 && m.status(x.Id).State == swarmv1.TaskState_COMPLETE {
			again++
		}
	}
	if again != 5 {
		t.Errorf("completions of the second iteration: got %d, want 5\n%s", again, m)
	}
}

// A scheduled job has no task before its first run, and none after a run has ended. Overlapping
// runs keep the tasks of the earlier one.
func TestPlan_ScheduledJobRunsItsIterations(t *testing.T) {
	for overlap, want := range map[swarmv1.JobPolicy_Overlap]int{swarmv1.JobPolicy_REPLACE: 1, swarmv1.JobPolicy_ALLOW: 2} {
		for _, mode := range []*swarmv1.ServiceMode{
			{Mode: &swarmv1.ServiceMode_ReplicatedJob{ReplicatedJob: &swarmv1.ReplicatedJob{MaxConcurrent: 1, TotalCompletions: 1}}},
			{Mode: &swarmv1.ServiceMode_GlobalJob{GlobalJob: &swarmv1.GlobalJob{}}},
		} {
			m := clusterOf(t, "a")
			m.addService("job", func(s *swarmv1.ServiceSpec) {
				s.Mode, s.Job = mode, &swarmv1.JobPolicy{Schedule: "@daily", Overlap: overlap}
				s.TaskTemplate.RestartPolicy.Condition = swarmv1.RestartPolicy_ON_FAILURE
			})
			run := func(status *swarmv1.JobStatus) {
				s := m.service("job").CloneVT()
				s.JobStatus = status
				m.put(s)
				m.pass(time.Minute)
			}
			m.pass(time.Minute)
			if got := len(m.tasks()); got != 0 {
				t.Errorf("before the first run: %d tasks\n%s", got, m)
			}
			run(&swarmv1.JobStatus{JobIteration: 1})
			if got := m.running("job"); got != 1 {
				t.Errorf("first run: %d tasks run, want 1\n%s", got, m)
			}
			run(&swarmv1.JobStatus{JobIteration: 2})
			if mode.GetGlobalJob() != nil && overlap == swarmv1.JobPolicy_ALLOW {
				want = 1 // one task on each node
			}
			if got := m.running("job"); got != want {
				t.Errorf("second run, %s: %d tasks run, want %d\n%s", overlap, got, want, m)
			}
			run(&swarmv1.JobStatus{JobIteration: 2, Ended: true})
			if got := m.running("job"); got != 0 {
				t.Errorf("ended: %d tasks run\n%s", got, m)
			}
		}
	}
}

func TestPlan_GlobalJobRunsOnceANode(t *testing.T) {
	m := clusterOf(t, "a", "b")
	m.addService("job", func(s *swarmv1.ServiceSpec) {
		s.Mode = &swarmv1.ServiceMode{Mode: &swarmv1.ServiceMode_GlobalJob{GlobalJob: &swarmv1.GlobalJob{}}}
	})
	m.completes = always
	m.pass(time.Minute)
	if got := len(m.tasks()); got != 2 {
		t.Fatalf("tasks: got %d, want 2\n%s", got, m)
	}
	m.addNode("c")
	m.pass(time.Minute)
	if got := len(m.tasks()); got != 3 {
		t.Errorf("tasks with another node: got %d, want 3\n%s", got, m)
	}
}
