package converge_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

// two is the progress of a service with two slots.
func two(running uint64, first, second swarmv1.TaskState) *swarmv1.ServiceProgress {
	return &swarmv1.ServiceProgress{ServiceName: "web", Running: running, Desired: 2, Slots: []*swarmv1.SlotProgress{
		{Label: "1/2", State: first}, {Label: "2/2", State: second},
	}}
}

func TestWait_Converges(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		const running = swarmv1.TaskState_RUNNING
		stable := two(2, running, running)
		stable.StableIn = durationpb.New(5 * time.Second)
		s := &clitest.Server{Waits: []clitest.WaitStep{
			{Progress: two(0, swarmv1.TaskState_NEW, swarmv1.TaskState_NEW)},
			{After: 10 * time.Millisecond, Progress: two(0, swarmv1.TaskState_PREPARING, swarmv1.TaskState_ASSIGNED)},
			{After: 200 * time.Millisecond, Progress: two(1, running, swarmv1.TaskState_STARTING)},
			{After: 200 * time.Millisecond, Progress: stable},
			{After: 5 * time.Second, Progress: two(2, running, running), Verdict: &swarmv1.ServiceVerdict{Converged: true, Warnings: []string{"node host1 does not answer"}}},
		}}
		got := clitest.Run{Server: s}.Run(t, "service", "create", "--name", "web", "--replicas", "2", "nginx")
		if got.Code != 0 || got.Out != "svc0000000000000000000001\n" {
			t.Errorf("got %+v", got)
		}
		want := `Warning: be careful
overall progress: 0 out of 2 tasks
1/2: preparing
2/2: assigned
overall progress: 1 out of 2 tasks
1/2: running
2/2: starting
overall progress: 2 out of 2 tasks
2/2: running
verify: Waiting to verify that tasks are stable...
verify: Service web converged
Warning: node host1 does not answer
`
		if got.ErrOut != want {
			t.Errorf("got\n%s\nwant\n%s", got.ErrOut, want)
		}
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("took %s, want 5.4 s", took)
		}
		if r := s.WaitReq; r.GetId() != "svc0000000000000000000001" || r.GetIndex() != 10 {
			t.Errorf("waited for %v", r)
		}
	})
}

func TestWait_CrashLoop(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		s := &clitest.Server{Waits: []clitest.WaitStep{{Progress: two(0, 0, 0), Verdict: &swarmv1.ServiceVerdict{
			Reason: "task web.1 (t3) on host2 failed 3 times: task: non-zero exit (3)", Outlook: "service web stays as asked for",
			Task: clitest.Task("t3", 1, swarmv1.TaskState_FAILED, 0, time.Now()),
			Log:  []*swarmv1.LogRecord{{TaskId: "t3", Stream: swarmv1.LogRecord_STDERR, Data: []byte("no such\tdatabase\n")}, {TaskId: "t3", Data: []byte("bye")}},
		}}}}
		got := clitest.Run{Server: s}.Run(t, "service", "create", "--name", "web", "nginx")
		want := `last lines of web.1 (t3):
  no such	database
  bye
Error: task web.1 (t3) on host2 failed 3 times: task: non-zero exit (3); service web stays as asked for; see ` + "`swarm service ps web`\n"
		if got.Code != 1 || got.Out != "svc0000000000000000000001\n" || !strings.HasSuffix(got.ErrOut, want) {
			t.Errorf("got %+v, want at the end\n%s", got, want)
		}
	})
}

func TestWait_Unplaced(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		s := &clitest.Server{Waits: []clitest.WaitStep{{Progress: two(0, 0, 0), Verdict: &swarmv1.ServiceVerdict{
			Reason: "1 of 1 tasks cannot be placed", Outlook: "service web stays as asked for", Hint: "label a node",
			Unplaced: &swarmv1.Unplaced{
				Refusals: []*swarmv1.Refusal{{Filter: "constraint", Nodes: 4, Reason: "node.labels.zone==east does not hold"}, {Filter: "down", Nodes: 1, Reason: "it is down"}},
				Nearest:  "host3 has zone west",
			},
		}}}}
		got := clitest.Run{Server: s}.Run(t, "service", "create", "--name", "web", "--constraint", "node.labels.zone==east", "nginx")
		want := `no node takes a task of web:
  4 nodes: node.labels.zone==east does not hold
  1 node: it is down
  nearest: host3 has zone west
Error: 1 of 1 tasks cannot be placed; service web stays as asked for; see ` + "`swarm service ps web`; label a node\n"
		if got.Code != 1 || !strings.HasSuffix(got.ErrOut, want) {
			t.Errorf("got %+v, want at the end\n%s", got, want)
		}
	})
}

func TestWait_Interrupted(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		// Not a timeout: the server would learn it, and could end the call before the client does.
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		time.AfterFunc(100*time.Millisecond, cancel)
		s := &clitest.Server{Waits: []clitest.WaitStep{{Progress: two(0, 0, 0)}, {After: time.Hour}}}
		got := clitest.Run{Server: s}.RunContext(ctx, t, "service", "create", "--name", "web", "nginx")
		if got.Code != 0 || !strings.HasSuffix(got.ErrOut, "Operation continuing in background.\nUse `swarm service ps web` to check progress.\n") {
			t.Errorf("got %+v", got)
		}
	})
}

// A manager that is restarted is asked again. An error which says that waiting is pointless is not.
func TestWait_ManagerGoesAway(t *testing.T) {
	clitest.StartSignals(t)
	synctest.Test(t, func(t *testing.T) {
		away := status.Error(codes.Unavailable, "the manager is shutting down")
		s := &clitest.Server{Waits: []clitest.WaitStep{
			{Progress: two(1, 0, 0)},
			{Err: away},
			{Err: away},
			{Progress: two(2, 0, 0), Verdict: &swarmv1.ServiceVerdict{Converged: true}},
		}}
		if got := (clitest.Run{Server: s}).Run(t, "service", "create", "--name", "web", "nginx"); got.Code != 0 || !strings.HasSuffix(got.ErrOut, "verify: Service web converged\n") {
			t.Errorf("got %+v", got)
		}
		s = &clitest.Server{Waits: []clitest.WaitStep{{Progress: two(1, 0, 0)}, {Err: status.Error(codes.NotFound, "service web was removed while waiting for it")}}}
		if got := (clitest.Run{Server: s}).Run(t, "service", "create", "--name", "web", "nginx"); got.Code != 1 || !strings.HasSuffix(got.ErrOut, "Error: service web was removed while waiting for it\n") {
			t.Errorf("removed: got %+v", got)
		}
		s = &clitest.Server{Waits: slices.Repeat([]clitest.WaitStep{{Err: away}}, 60)}
		if got := (clitest.Run{Server: s}).Run(t, "service", "create", "--name", "web", "nginx"); got.Code != 1 || len(s.Waits) < 20 || len(s.Waits) == 60 {
			t.Errorf("away for a minute: got %+v after %d calls", got, 60-len(s.Waits))
		}
	})
}
