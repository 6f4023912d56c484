package task_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/manager/control"
	"swarm/manager/control/controltest"
	swarmv1 "swarm/proto/swarm/v1"
)

// host is the Worker service of one node.
type host struct {
	swarmv1.UnimplementedWorkerServer
	logs map[string][]*swarmv1.LogRecord
}

func (h *host) Logs(req *swarmv1.TaskLogsRequest, s swarmv1.Worker_LogsServer) error {
	for _, id := range req.GetTaskIds() {
		if err := s.Send(&swarmv1.TaskLogsResponse{Records: h.logs[id]}); err != nil {
			return err
		}
	}
	return nil
}

func (h *host) Exec(s swarmv1.Worker_ExecServer) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	if err := s.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_Stdout{Stdout: []byte(strings.Join(first.GetStart().GetCommand(), " "))}}); err != nil {
		return err
	}
	for {
		in, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_ExitCode{ExitCode: 7}})
		}
		if err != nil {
			return err
		}
		if err := s.Send(&swarmv1.ExecOutput{Message: &swarmv1.ExecOutput_Stdout{Stdout: in.GetStdin()}}); err != nil {
			return err
		}
	}
}

// withHost makes every node reachable as h.
func withHost(t *testing.T, h *host) func(*control.Deps) {
	return func(d *control.Deps) {
		conn := controltest.ServeWorker(t, h)
		d.Conn = func(string) (grpc.ClientConnInterface, error) { return conn, nil }
	}
}

func TestControl_LogsAreMergedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{logs: map[string][]*swarmv1.LogRecord{}}
		r := controltest.New(t, withHost(t, h))
		id := r.CreateService(controltest.ServiceSpec("web", 2))
		r.AddTask(id, r.AddNode("host-a"), 1)
		r.AddTask(id, r.AddNode("host-b"), 2)
		start, i := time.Now(), 0
		for task := range r.Store.View().TasksOfService(id) {
			for n := range 3 {
				h.logs[task.GetId()] = append(h.logs[task.GetId()], &swarmv1.LogRecord{
					TaskId: task.GetId(), Stream: swarmv1.LogRecord_STDOUT, Offset: uint64(n), Data: []byte{byte('a' + 2*n + i)},
					Timestamp: timestamppb.New(start.Add(time.Duration(2*n+i) * time.Second)),
				})
			}
			i++
		}
		for _, follow := range []bool{false, true} {
			ctx, cancel := context.WithCancel(t.Context())
			stream, err := r.Control.Logs(ctx, &swarmv1.LogsRequest{Service: "web", Options: &swarmv1.LogOptions{Tail: -1, Follow: follow}})
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for got.Len() < 6 {
				m, err := stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				for _, rec := range m.GetRecords() {
					got.Write(rec.GetData())
				}
			}
			if got.String() != "abcdef" {
				t.Errorf("follow %t: got %q, want abcdef", follow, got.String())
			}
			if !follow {
				if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
					t.Errorf("after the last record: %v, want the end", err)
				}
			}
			cancel()
		}
	})
}

func TestControl_Exec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := controltest.New(t, withHost(t, &host{}))
		r.AddTask(r.CreateService(controltest.ServiceSpec("web", 1)), r.AddNode("host-a"), 1)
		stream, err := r.Control.Exec(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		send := func(m *swarmv1.ExecInput) {
			t.Helper()
			if err := stream.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		send(&swarmv1.ExecInput{Message: &swarmv1.ExecInput_Start{Start: &swarmv1.ExecStart{TaskId: "web.1", Command: []string{"cat", "-"}}}})
		send(&swarmv1.ExecInput{Message: &swarmv1.ExecInput_Stdin{Stdin: []byte(" hello")}})
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		code := int32(-1)
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			out.Write(m.GetStdout())
			if x, ok := m.GetMessage().(*swarmv1.ExecOutput_ExitCode); ok {
				code = x.ExitCode
			}
		}
		if out.String() != "cat - hello" || code != 7 {
			t.Errorf("exec said %q and ended with %d, want %q and 7", out.String(), code, "cat - hello")
		}
	})
}
