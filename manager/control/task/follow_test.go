package task_test

import (
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/broadcast"
	"swarm/manager/control"
	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
)

// writer is a node with one task that writes letters, and a daemon that restarts.
type writer struct {
	swarmv1.UnimplementedWorkerServer
	mu      sync.Mutex // guards the rest
	wrote   []*swarmv1.LogRecord
	changed broadcast.Signal // wrote has grown
	restart broadcast.Signal // the streams break
	opened  []*swarmv1.LogOptions
}

func newWriter() *writer {
	return &writer{}
}

func (w *writer) write(task, letter string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrote = append(w.wrote, &swarmv1.LogRecord{
		TaskId: task, Stream: swarmv1.LogRecord_STDOUT, Offset: uint64(len(w.wrote)), Data: []byte(letter), Timestamp: timestamppb.Now(),
	})
	w.changed.Broadcast()
}

func (w *writer) breakStreams() {
	w.restart.Broadcast()
}

func (w *writer) Logs(req *swarmv1.TaskLogsRequest, s swarmv1.Worker_LogsServer) error {
	w.mu.Lock()
	restart, at := w.restart.Changed(), 0
	w.opened = append(w.opened, req.GetOptions())
	w.mu.Unlock()
	if o := req.GetOptions(); o.GetTail() == 0 {
		w.mu.Lock()
		at = len(w.wrote)
		w.mu.Unlock()
	}
	for {
		changed := w.changed.Changed()
		w.mu.Lock()
		news := w.wrote[at:]
		at = len(w.wrote)
		w.mu.Unlock()
		for _, r := range news {
			if since := req.GetOptions().GetSince(); since != nil && r.GetTimestamp().AsTime().Before(since.AsTime()) {
				continue
			}
			if after := req.GetOptions().GetAfter(); len(after) > 0 && r.GetOffset() <= after[0].GetOffset() {
				continue
			}
			if err := s.Send(&swarmv1.TaskLogsResponse{Records: []*swarmv1.LogRecord{r}}); err != nil {
				return err
			}
		}
		if !req.GetOptions().GetFollow() {
			return nil
		}
		select {
		case <-changed:
		case <-restart:
			return status.Error(codes.Unavailable, "the daemon restarts")
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

// When a daemon restarts, clients that follow a log miss no record and get none twice.
func TestControl_FollowedLogsSurviveARestart(t *testing.T) {
	for name, test := range map[string]struct {
		tail int64
		want string
	}{"all": {-1, "abcd"}, "only what comes": {0, "cd"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWriter()
				r := controltest.New(t, func(d *control.Deps) {
					conn := controltest.ServeWorker(t, w)
					d.Conn = func(string) (grpc.ClientConnInterface, error) { return conn, nil }
				})
				service := r.CreateService(controltest.ServiceSpec("web", 1))
				task := r.AddTask(service, r.AddNode("host-a"), 1)
				w.write(task, "a")
				w.write(task, "b")
				time.Sleep(time.Second)
				stream, err := r.Control.Logs(t.Context(), &swarmv1.LogsRequest{Service: "web", Options: &swarmv1.LogOptions{Tail: test.tail, Follow: true}})
				if err != nil {
					t.Fatal(err)
				}
				var got, said strings.Builder
				ended := make(chan error, 1)
				go func() {
					for {
						m, err := stream.Recv()
						if err != nil {
							ended <- err
							return
						}
						said.WriteString(strings.Join(m.GetNotices(), "\n"))
						for _, rec := range m.GetRecords() {
							got.Write(rec.GetData())
						}
					}
				}()
				synctest.Wait()
				w.breakStreams()
				synctest.Wait()
				w.write(task, "c") // while no client follows the logs
				time.Sleep(time.Minute)
				w.write(task, "d")
				synctest.Wait()
				r.RemoveService("web")
				r.FinishRemoval(service)
				if err := <-ended; !errors.Is(err, io.EOF) {
					t.Errorf("after the service: %v, want the end", err)
				}
				if got.String() != test.want || strings.Count(said.String(), "trying again") != 1 {
					t.Errorf("got %q and %q, want %q and one word about the break", got.String(), said.String(), test.want)
				}
			})
		})
	}
}
