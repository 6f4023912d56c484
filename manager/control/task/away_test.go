package task_test

import (
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/manager/control"
	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
)

// silent is a node that accepts calls and never answers.
type silent struct {
	swarmv1.UnimplementedWorkerServer
}

func (silent) Logs(_ *swarmv1.TaskLogsRequest, s swarmv1.Worker_LogsServer) error {
	<-s.Context().Done()
	return s.Context().Err()
}

// A node that cannot be reached, or does not answer, is reported once, whatever its number of
// tasks. The records of other nodes arrive. With follow, the records of the node arrive when it
// returns.
func TestControl_LogsOfANodeThatIsAway(t *testing.T) {
	for name, answer := range map[string]swarmv1.WorkerServer{"refuses": nil, "is silent": silent{}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &host{logs: map[string][]*swarmv1.LogRecord{}}
				var away atomic.Pointer[string]
				r := controltest.New(t, func(d *control.Deps) {
					well := controltest.ServeWorker(t, h)
					var ill grpc.ClientConnInterface
					if answer != nil {
						ill = controltest.ServeWorker(t, answer)
					}
					d.Conn = func(node string) (grpc.ClientConnInterface, error) {
						switch id := away.Load(); {
						case id == nil || *id != node:
							return well, nil
						case ill != nil:
							return ill, nil
						}
						return nil, errdefs.ErrUnavailable.WithMessage("no route to host")
					}
				})
				a, b := r.AddNode("host-a"), r.AddNode("host-b")
				id := r.CreateService(controltest.ServiceSpec("web", 4))
				for slot, node := range []string{a, b, a, b} {
					r.AddTask(id, node, uint64(slot+1))
				}
				for task := range r.Store.View().TasksOfService(id) {
					h.logs[task.GetId()] = []*swarmv1.LogRecord{{TaskId: task.GetId(), Stream: swarmv1.LogRecord_STDOUT, Offset: 1, Data: []byte("x")}}
				}
				away.Store(&b)
				stream, err := r.Control.Logs(t.Context(), &swarmv1.LogsRequest{Service: "web", Options: &swarmv1.LogOptions{Tail: -1}})
				if err != nil {
					t.Fatal(err)
				}
				lines, notices := gather(t, stream)
				if lines != 2 || len(notices) != 1 || !strings.HasPrefix(notices[0], "node host-b cannot be asked for its logs (") || !strings.HasSuffix(notices[0], "): its part is missing") {
					t.Errorf("%d lines, notices %q", lines, notices)
				}
				if answer != nil {
					return // it does not say when it would answer
				}
				stream, err = r.Control.Logs(t.Context(), &swarmv1.LogsRequest{Service: "web", Options: &swarmv1.LogOptions{Tail: -1, Follow: true}})
				if err != nil {
					t.Fatal(err)
				}
				time.AfterFunc(30*time.Second, func() { away.Store(nil) })
				time.AfterFunc(time.Minute, func() {
					r.RemoveService("web")
					r.FinishRemoval(id)
				})
				lines, notices = gather(t, stream)
				synctest.Wait() // until FinishRemoval has returned
				if lines != 4 || len(notices) != 1 || !strings.HasSuffix(notices[0], "): its part comes when it answers") {
					t.Errorf("followed: %d lines, notices %q", lines, notices)
				}
			})
		})
	}
}

// gather reads a stream to its end.
func gather(t *testing.T, stream swarmv1.Control_LogsClient) (lines int, notices []string) {
	t.Helper()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return lines, notices
		}
		if err != nil {
			t.Fatal(err)
		}
		lines += len(m.GetRecords())
		notices = append(notices, m.GetNotices()...)
	}
}
