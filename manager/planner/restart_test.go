package planner

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	swarmv1 "swarm/proto/swarm/v1"
)

func restarting(edit func(*swarmv1.RestartPolicy)) func(*swarmv1.ServiceSpec) {
	return func(s *swarmv1.ServiceSpec) { edit(s.TaskTemplate.RestartPolicy) }
}

func always(*swarmv1.Task) bool { return true }

func TestPlan_RestartWaitsForTheDelay(t *testing.T) {
	m := cluster(t, "a", "b")
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

// A task that its node stopped, because the host went down, is followed at once, whatever the policy says of failures.
func TestPlan_TaskThatItsNodeStoppedIsReplacedAtOnce(t *testing.T) {
	m := cluster(t, "a", "b")
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
	m := cluster(t, "a")
	m.addService("web", replicas(2))
	m.fails = always
	m.pass(10 * time.Minute)
	for _, x := range m.tasks() {
		if x.Restarts.GetAttempts() < 50 && m.status(x.Id).State < swarmv1.TaskState_RUNNING {
			t.Errorf("attempts in 10 minutes: got %d, want about 120", x.Restarts.GetAttempts())
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
			m := cluster(t, "a")
			m.addService("web", restarting(func(p *swarmv1.RestartPolicy) { p.Condition = c.condition }))
			m.settle()
			m.report(m.tasks()[0].Id, c.end)
			m.pass(time.Minute)
			if got := m.running("web"); got != c.want {
				t.Errorf("running: got %d, want %d\n%s", got, c.want, m)
			}
			// An update begins anew.
			m.edit("web", image("docker.io/library/web:2"))
			m.pass(time.Minute)
			if got := m.running("web"); got != 1 {
				t.Errorf("running after an update: got %d, want 1\n%s", got, m)
			}
		})
	}
}

func TestPlan_MaxAttempts(t *testing.T) {
	m := cluster(t, "a")
	m.addService("web", restarting(func(p *swarmv1.RestartPolicy) { p.MaxAttempts = 3 }))
	m.fails = always
	m.pass(time.Hour)
	if got, want := len(m.tasks()), 4; got != want {
		t.Fatalf("tasks of 3 attempts: got %d, want %d\n%s", got, want, m)
	}
	m.fails = func(*swarmv1.Task) bool { return false }
	m.edit("web", replicas(2))
	m.pass(time.Hour)
	if got := m.running("web"); got != 1 {
		t.Errorf("running of two slots, one exhausted: got %d, want 1\n%s", got, m)
	}
}

func TestPlan_MaxAttemptsInWindow(t *testing.T) {
	m := cluster(t, "a")
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
	m := cluster(t, "a", "b", "c")
	m.put(&swarmv1.Cluster{Id: "c", Spec: &swarmv1.ClusterSpec{Orchestration: &swarmv1.OrchestrationConfig{TaskHistoryRetentionLimit: 10}}})
	m.addService("web", replicas(1), restarting(func(p *swarmv1.RestartPolicy) { p.Delay = durationpb.New(time.Second) }))
	m.fails = func(x *swarmv1.Task) bool { return x.NodeId == "a" }
	m.pass(30 * time.Second)
	if got := m.running("web"); got != 1 {
		t.Errorf("running: got %d, want 1, away from the node where it fails\n%s", got, m)
	}
}

func TestPlan_JobRunsItsCompletions(t *testing.T) {
	m := cluster(t, "a", "b")
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

func TestPlan_GlobalJobRunsOnceANode(t *testing.T) {
	m := cluster(t, "a", "b")
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
