package node_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

// drainServer returns a server with service web, one of whose tasks runs on host2.
func drainServer(t *testing.T) (*clitest.Server, *swarmv1.TaskInfo) {
	t.Helper()
	s := clitest.WebServer(t, time.Now())
	s.Info = &swarmv1.InfoResponse{NodeId: "a1b2c3d4e5f6g7h8i9j0k1l2m"}
	task := clitest.Task("taskaaaaaaaaaaaaaaaaaaaa2", 1, swarmv1.TaskState_RUNNING, time.Minute, time.Now())
	task.Task.NodeId = "b2c3d4e5f6g7h8i9j0k1l2m3n"
	s.Tasks = []*swarmv1.TaskInfo{task}
	return s, task
}

// stop makes the task stop, and then end after d.
func stop(s *clitest.Server, task *swarmv1.TaskInfo, d time.Duration) {
	stopping := task.CloneVT()
	stopping.Task.DesiredState = swarmv1.TaskState_SHUTDOWN
	ended := stopping.CloneVT()
	ended.Status.State = swarmv1.TaskState_SHUTDOWN
	s.Change(func() { s.Tasks = []*swarmv1.TaskInfo{stopping} })
	time.AfterFunc(d, func() { s.Change(func() { s.Tasks = []*swarmv1.TaskInfo{ended} }) })
}

func TestDrain(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		s, task := drainServer(t)
		s.Waits = []clitest.WaitStep{
			{Progress: &swarmv1.ServiceProgress{ServiceName: "web", Running: 1, Desired: 2}},
			{After: time.Second, Progress: &swarmv1.ServiceProgress{ServiceName: "web", Running: 2, Desired: 2}, Verdict: &swarmv1.ServiceVerdict{Converged: true}},
		}
		stop(s, task, 5*time.Second)
		got := clitest.Run{Server: s}.Run(t, "node", "drain", "host2")
		want := `service web:
overall progress: 1 out of 2 tasks
overall progress: 2 out of 2 tasks
verify: Service web converged
node host2: 1 task still to stop
verify: Node host2 runs no tasks
`
		if got.Code != 0 || got.Out != "host2\n" || got.ErrOut != want {
			t.Errorf("got %+v, want\n%s", got, want)
		}
		if len(s.NodeReqs) != 1 || s.NodeReqs[0].Spec.Availability != swarmv1.NodeSpec_DRAIN || s.NodeReqs[0].Spec.Role != swarmv1.NodeSpec_MANAGER {
			t.Errorf("requests: got %v", s.NodeReqs)
		}
		if s.WaitReq.GetId() != "svc0000000000000000000001" || s.WaitReq.GetIndex() != 5 || s.WaitReq.GetRevision() != 0 {
			t.Errorf("waited for %v", s.WaitReq)
		}
	})
}

func TestDrain_Flags(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		s, _ := drainServer(t)
		if got := (clitest.Run{Server: s}).Run(t, "node", "drain", "-d", "host2", "host9"); got.Code != 1 || got.Out != "host2\n" || got.ErrOut != "Error: node host9: not found\n" || s.WaitReq != nil {
			t.Errorf("detach: got %+v", got)
		}
		s, task := drainServer(t)
		stop(s, task, time.Second)
		if got := (clitest.Run{Server: s}).Run(t, "node", "drain", "--quiet", "host2"); got.Code != 0 || got.Out != "host2\n" || got.ErrOut != "" {
			t.Errorf("quiet: got %+v", got)
		}
	})
}

// A service that no other node takes is named, and its task that the planner leaves on the node.
func TestDrain_DoesNotConverge(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		s, _ := drainServer(t)
		s.Waits = []clitest.WaitStep{{Progress: &swarmv1.ServiceProgress{ServiceName: "web"}, Verdict: &swarmv1.ServiceVerdict{
			Reason: "1 of 1 tasks cannot be placed: node.hostname==host2 does not hold", Outlook: "service web stays as asked for",
		}}}
		got := clitest.Run{Server: s}.Run(t, "node", "drain", "-q", "host2")
		for _, want := range []string{"Error: service web: 1 of 1 tasks cannot be placed: node.hostname==host2 does not hold; service web stays", "node host2 is set to drain, but still runs web.1; see `swarm node ps host2`"} {
			if got.Code != 1 || !strings.Contains(got.ErrOut, want) {
				t.Errorf("got %+v, want %q", got, want)
			}
		}
	})
}

// A task that nobody stops does not make drain wait for ever, and neither does a node that is down.
func TestDrain_TasksLeft(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		s, _ := drainServer(t)
		began := time.Now()
		got := clitest.Run{Server: s}.Run(t, "node", "drain", "-q", "host2")
		if took := time.Since(began); got.Code != 1 || !strings.Contains(got.ErrOut, "still runs web.1") || took < 40*time.Second || took > 45*time.Second {
			t.Errorf("got %+v after %s, want an error after 10 s of grace and 30 s more", got, took)
		}
		s, task := drainServer(t)
		task.Task.NodeId = "c3d4e5f6g7h8i9j0k1l2m3n4o"
		if got := (clitest.Run{Server: s}).Run(t, "node", "drain", "-q", "host3"); got.Code != 1 || !strings.Contains(got.ErrOut, "node host3 is down, and it is unknown whether it still runs web.1") {
			t.Errorf("down: got %+v", got)
		}
	})
}

// A job may run for days on its new nodes, so drain waits only for its tasks on this one.
func TestDrain_Job(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		s, task := drainServer(t)
		s.Services[0].Revision.Spec = clitest.ParseSpec(t, `name:"web" mode{replicated_job{total_completions:2}}`)
		stop(s, task, time.Second)
		if got := (clitest.Run{Server: s}).Run(t, "node", "drain", "host2"); got.Code != 0 || s.WaitReq != nil || !strings.HasSuffix(got.ErrOut, "verify: Node host2 runs no tasks\n") {
			t.Errorf("got %+v, waited for %v", got, s.WaitReq)
		}
	})
}

func TestDrain_Interrupted(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Second, cancel)
		s, _ := drainServer(t)
		got := clitest.Run{Server: s}.RunContext(ctx, t, "node", "drain", "host2")
		if got.Code != 0 || !strings.HasSuffix(got.ErrOut, "Operation continuing in background.\nUse `swarm node ps host2` to check progress.\n") {
			t.Errorf("got %+v", got)
		}
	})
}
