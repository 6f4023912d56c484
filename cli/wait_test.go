package cli_test

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

	swarmv1 "swarm/proto/swarm/v1"
)

// bubble runs a test on a clock of its own. The runtime's signal goroutine is started before, as it never ends.
func bubble(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	run{server: &fakeServer{}}.run(t, "node", "ls")
	synctest.Test(t, fn)
}

// waitStep is one message of WaitService, or the error that ends the call.
type waitStep struct {
	after    time.Duration
	progress *swarmv1.ServiceProgress
	verdict  *swarmv1.ServiceVerdict
	err      error
}

// two is the progress of a service with two slots.
func two(running uint64, first, second swarmv1.TaskState) *swarmv1.ServiceProgress {
	return &swarmv1.ServiceProgress{ServiceName: "web", Running: running, Desired: 2, Slots: []*swarmv1.SlotProgress{
		{Label: "1/2", State: first}, {Label: "2/2", State: second},
	}}
}

func TestWait_Converges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		began := time.Now()
		const running = swarmv1.TaskState_RUNNING
		stable := two(2, running, running)
		stable.StableIn = durationpb.New(5 * time.Second)
		s := &fakeServer{waits: []waitStep{
			{progress: two(0, swarmv1.TaskState_NEW, swarmv1.TaskState_NEW)},
			{after: 10 * time.Millisecond, progress: two(0, swarmv1.TaskState_PREPARING, swarmv1.TaskState_ASSIGNED)},
			{after: 200 * time.Millisecond, progress: two(1, running, swarmv1.TaskState_STARTING)},
			{after: 200 * time.Millisecond, progress: stable},
			{after: 5 * time.Second, progress: two(2, running, running), verdict: &swarmv1.ServiceVerdict{Converged: true, Warnings: []string{"node host1 does not answer"}}},
		}}
		got := run{server: s}.run(t, "service", "create", "--name", "web", "--replicas", "2", "nginx")
		if got.code != 0 || got.out != "svc0000000000000000000001\n" {
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
		if got.errOut != want {
			t.Errorf("got\n%s\nwant\n%s", got.errOut, want)
		}
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("took %s, want 5.4 s", took)
		}
		if r := s.waitReq; r.GetId() != "svc0000000000000000000001" || r.GetIndex() != 10 {
			t.Errorf("waited for %v", r)
		}
	})
}

func TestWait_CrashLoop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &fakeServer{waits: []waitStep{{progress: two(0, 0, 0), verdict: &swarmv1.ServiceVerdict{
			Reason: "task web.1 (t3) on host2 failed 3 times: task: non-zero exit (3)", Outlook: "service web stays as asked for",
			Task: task("t3", 1, swarmv1.TaskState_FAILED, 0, time.Now()),
			Log:  []*swarmv1.LogRecord{{TaskId: "t3", Stream: swarmv1.LogRecord_STDERR, Data: []byte("no such\tdatabase\n")}, {TaskId: "t3", Data: []byte("bye")}},
		}}}}
		got := run{server: s}.run(t, "service", "create", "--name", "web", "nginx")
		want := `last lines of web.1 (t3):
  no such	database
  bye
Error: task web.1 (t3) on host2 failed 3 times: task: non-zero exit (3); service web stays as asked for; see ` + "`swarm service ps web`\n"
		if got.code != 1 || got.out != "svc0000000000000000000001\n" || !strings.HasSuffix(got.errOut, want) {
			t.Errorf("got %+v, want at the end\n%s", got, want)
		}
	})
}

func TestWait_Unplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &fakeServer{waits: []waitStep{{progress: two(0, 0, 0), verdict: &swarmv1.ServiceVerdict{
			Reason: "1 of 1 tasks cannot be placed", Outlook: "service web stays as asked for", Hint: "label a node",
			Unplaced: &swarmv1.Unplaced{
				Refusals: []*swarmv1.Refusal{{Filter: "constraint", Nodes: 4, Reason: "node.labels.zone==east does not hold"}, {Filter: "down", Nodes: 1, Reason: "it is down"}},
				Nearest:  "host3 has zone west",
			},
		}}}}
		got := run{server: s}.run(t, "service", "create", "--name", "web", "--constraint", "node.labels.zone==east", "nginx")
		want := `no node takes a task of web:
  4 nodes: node.labels.zone==east does not hold
  1 node: it is down
  nearest: host3 has zone west
Error: 1 of 1 tasks cannot be placed; service web stays as asked for; see ` + "`swarm service ps web`; label a node\n"
		if got.code != 1 || !strings.HasSuffix(got.errOut, want) {
			t.Errorf("got %+v, want at the end\n%s", got, want)
		}
	})
}

func TestWait_Interrupted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		s := &fakeServer{waits: []waitStep{{progress: two(0, 0, 0)}, {after: time.Hour}}}
		got := run{server: s}.runContext(ctx, t, "service", "create", "--name", "web", "nginx")
		if got.code != 0 || !strings.HasSuffix(got.errOut, "Operation continuing in background.\nUse `swarm service ps web` to check progress.\n") {
			t.Errorf("got %+v", got)
		}
	})
}

// A manager that is restarted is asked again. An error which says that waiting is pointless is not.
func TestWait_ManagerGoesAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		away := status.Error(codes.Unavailable, "the manager is shutting down")
		s := &fakeServer{waits: []waitStep{
			{progress: two(1, 0, 0)},
			{err: away},
			{err: away},
			{progress: two(2, 0, 0), verdict: &swarmv1.ServiceVerdict{Converged: true}},
		}}
		if got := (run{server: s}).run(t, "service", "create", "--name", "web", "nginx"); got.code != 0 || !strings.HasSuffix(got.errOut, "verify: Service web converged\n") {
			t.Errorf("got %+v", got)
		}
		s = &fakeServer{waits: []waitStep{{progress: two(1, 0, 0)}, {err: status.Error(codes.NotFound, "service web was removed while waiting for it")}}}
		if got := (run{server: s}).run(t, "service", "create", "--name", "web", "nginx"); got.code != 1 || !strings.HasSuffix(got.errOut, "Error: service web was removed while waiting for it\n") {
			t.Errorf("removed: got %+v", got)
		}
		s = &fakeServer{waits: slices.Repeat([]waitStep{{err: away}}, 60)}
		if got := (run{server: s}).run(t, "service", "create", "--name", "web", "nginx"); got.code != 1 || len(s.waits) < 20 || len(s.waits) == 60 {
			t.Errorf("away for a minute: got %+v after %d calls", got, 60-len(s.waits))
		}
	})
}

// A service whose name still belongs to one that is being removed is created once that is gone, and not in silence.
func TestServiceCreate_SaysThatItWaitsForTheName(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := webServer(t, time.Now())
		s.services[0].Service.PendingDelete = true
		s.beforeCreate = func() {
			time.Sleep(10 * time.Second)
			s.change(func() { s.services = nil })
		}
		got := run{server: s}.run(t, "service", "create", "-d", "--name", "web", "nginx")
		if got.code != 0 || got.errOut != "service web is still being removed: waiting until its tasks have stopped\nWarning: be careful\n" {
			t.Errorf("got %+v", got)
		}
	})
}

// What takes long because tasks stop says so.
func TestSlowRemovals(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := webServer(t, time.Now())
		s.beforeRemove = func() { time.Sleep(10 * time.Second) }
		s.networks = []*swarmv1.NetworkInfo{{Network: &swarmv1.Network{Id: "net1", Spec: &swarmv1.NetworkSpec{Name: "app"}}}}
		s.services[0].Service.PendingDelete = true
		for _, tc := range []struct{ line, out, errOut string }{
			{"leave --force", "Node left the swarm.\n", "waiting until the tasks of this node have stopped: each has its grace period\n"},
			{"network rm app", "app\n", "network app is in use by services that are being removed, web: waiting until their tasks have stopped\n"},
		} {
			if got := (run{server: s}).run(t, strings.Fields(tc.line)...); got.code != 0 || got.out != tc.out || got.errOut != tc.errOut {
				t.Errorf("%s: got %+v, want %q and %q", tc.line, got, tc.out, tc.errOut)
			}
		}
	})
}
