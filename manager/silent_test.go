package manager_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/logsample"
	"swarm/internal/transport"
	"swarm/manager"
	swarmv1 "swarm/proto/swarm/v1"
)

// journal keeps the log lines of a manager.
type journal struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// lines returns the log lines that contain a text.
func (j *journal) lines(says string) (out []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.text.String()) {
		if strings.Contains(line, says) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// first opens a session, sends the given messages, and returns the error with which the session
// ended.
func first(ctx context.Context, c swarmv1.DispatcherClient, messages ...*swarmv1.FromWorker) error {
	stream, err := c.Session(ctx)
	if err != nil {
		return err
	}
	for _, m := range messages {
		_ = stream.Send(m) // Recv returns the reason.
	}
	for err == nil {
		_, err = stream.Recv()
	}
	return transport.FromStatus(err)
}

// A worker that is refused repeatedly causes one log line a minute, which has the number of the
// other refusals.
func TestManager_RefusedSessionsWriteFewLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged journal
		r := newRig(t, func(d *manager.Deps) { d.Log = slog.New(slog.NewTextHandler(&logged, nil)) })
		id := r.addNode("host-a")
		client := swarmv1.NewDispatcherClient(r.dial(nodeInfo(id)))
		clone := &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Hello{Hello: &swarmv1.Hello{MachineId: "another"}}}
		for range 500 {
			if err := first(t.Context(), client, clone); !errdefs.IsAlreadyExists(err) && !errdefs.IsResourceExhausted(err) {
				t.Fatalf("a clone's session ended with %v", err)
			}
		}
		if got := logged.lines("session refused"); len(got) != 1 || !strings.Contains(got[0], id) {
			t.Errorf("500 refusals of node %s wrote %d lines: %q", id, len(got), got)
		}
		time.Sleep(logsample.Interval)
		_ = first(t.Context(), client, clone)
		if got := logged.lines("session refused"); len(got) != 2 || !strings.Contains(got[1], "suppressed=499") {
			t.Errorf("the next minute's line does not count 499 others: %q", got)
		}
	})
}

func TestManager_SessionBeginsWithAHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		id := r.addNode("host-a")
		beat := &swarmv1.FromWorker{Message: &swarmv1.FromWorker_Heartbeat{Heartbeat: &swarmv1.Heartbeat{Sequence: 1}}}
		began := time.Now()
		err := first(t.Context(), swarmv1.NewDispatcherClient(r.dial(nodeInfo(id))), beat)
		if !errdefs.IsInvalidArgument(err) || time.Since(began) > 0 {
			t.Errorf("a session that begins with a heartbeat ended after %s with %v", time.Since(began), err)
		}
		if r.state(id) == swarmv1.NodeState_READY || r.mgr.Sessions() != 0 {
			t.Errorf("a node that has not said hello is %s, with %d sessions", r.state(id), r.mgr.Sessions())
		}
	})
}

// The manager closes the session of a worker that reads nothing after the session timeout, however
// many messages wait and although the worker sends heartbeats. Until then the worker delays no
// other worker.
func TestManager_DeafWorkerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged journal
		r := newRig(t, func(d *manager.Deps) { d.Log = slog.New(slog.NewTextHandler(&logged, nil)) })
		good := r.join("host-b")
		id := r.addNode("host-a")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stream, err := swarmv1.NewDispatcherClient(r.dial(nodeInfo(id))).Session(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Hello{Hello: &swarmv1.Hello{
			MachineId: "host-a", Addr: "host-a", Port: 2377, Description: &swarmv1.NodeDescription{
				Hostname: "host-a", Platform: &swarmv1.Platform{Os: "linux", Architecture: "amd64"},
				Resources: &swarmv1.Resources{NanoCpus: 4e9, MemoryBytes: 8 << 30},
			},
		}}})
		synctest.Wait()
		if r.state(id) != swarmv1.NodeState_READY {
			t.Fatalf("the node is %s", r.state(id))
		}
		spec := serviceSpec("web", 8)
		spec.TaskTemplate.ContainerSpec.Env = []string{"LARGE=" + strings.Repeat("x", 400<<10)} // exceeds gRPC's buffers
		began := time.Now()
		r.create(spec)
		if got := good.running(); got != 4 || time.Since(began) > 0 {
			t.Errorf("the other node has %d tasks after %s, want 4 at once", got, time.Since(began))
		}
		for r.mgr.Sessions() > 1 && time.Since(began) < time.Minute {
			_ = stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Heartbeat{Heartbeat: &swarmv1.Heartbeat{Sequence: 1}}})
			time.Sleep(time.Second)
		}
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("the session of a worker that reads nothing was open for %s, want the session timeout, 10s", took)
		}
		if got := logged.lines("does not read"); len(got) != 1 {
			t.Errorf("its end is logged as %q, want one line", got)
		}
		time.Sleep(time.Minute)
		if r.state(id) == swarmv1.NodeState_READY || good.running() != 8 {
			t.Errorf("a minute later the node is %s, and the other has %d tasks, want all 8", r.state(id), good.running())
		}
	})
}
