package node

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// echo is a worker whose streams end when the test closes them.
type echo struct {
	swarmv1.UnimplementedWorkerServer
	opened, finish chan struct{}
}

func (e echo) Logs(r *swarmv1.TaskLogsRequest, stream swarmv1.Worker_LogsServer) error {
	close(e.opened)
	<-e.finish
	return stream.Send(&swarmv1.TaskLogsResponse{Records: []*swarmv1.LogRecord{{Data: []byte("after")}}})
}

// refusing is an authority that always returns one error.
type refusing struct {
	swarmv1.UnimplementedCAServer
	err error
}

func (r refusing) Join(_ context.Context, q *swarmv1.JoinRequest) (*swarmv1.JoinResponse, error) {
	return &swarmv1.JoinResponse{NodeId: q.Hostname}, r.err
}

// serving runs a server that answers from services until the test ends.
func serving(t *testing.T, s *Services) *grpc.ClientConn {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := transport.ListenUnix(socket, "")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(append(transport.ServerOptions(), s.ServerOption())...)
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	conn, err := transport.DialUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		<-done
	})
	return conn
}

func TestServices_RegisterAndUnregister(t *testing.T) {
	s := newServices()
	var mu sync.Mutex // guards judged
	var judged []string
	s.SetAuthorise(func(_ context.Context, method string) error {
		mu.Lock()
		defer mu.Unlock()
		judged = append(judged, method)
		return nil
	})
	conn := serving(t, s)
	ca, worker := swarmv1.NewCAClient(conn), swarmv1.NewWorkerClient(conn)

	_, err := ca.Join(t.Context(), &swarmv1.JoinRequest{})
	wantError(t, "a call before", err, errdefs.IsUnavailable, "not a swarm manager")
	swarmv1.RegisterCAServer(s.For("manager"), refusing{})
	answer, err := ca.Join(t.Context(), &swarmv1.JoinRequest{Hostname: "h"})
	if err != nil || answer.NodeId != "h" {
		t.Errorf("a call: %v, %v", answer, err)
	}

	e := echo{opened: make(chan struct{}), finish: make(chan struct{})}
	swarmv1.RegisterWorkerServer(s.For("worker"), e)
	stream, err := worker.Logs(t.Context(), &swarmv1.TaskLogsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	<-e.opened
	s.Unregister("worker")
	close(e.finish)
	if record, err := stream.Recv(); err != nil || len(record.Records) != 1 {
		t.Errorf("a stream that ran when its service was withdrawn: %v, %v", record, err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("its end: %v", err)
	}
	next, err := worker.Logs(t.Context(), &swarmv1.TaskLogsRequest{})
	if err == nil {
		_, err = next.Recv()
	}
	wantError(t, "a stream after", err, errdefs.IsUnavailable, "part of no cluster")
	if _, err := ca.Join(t.Context(), &swarmv1.JoinRequest{}); err != nil {
		t.Errorf("another owner's service: %v", err)
	}
	err = conn.Invoke(t.Context(), "/elsewhere.v1.X/Y", &swarmv1.JoinRequest{}, &swarmv1.JoinResponse{})
	wantError(t, "an unknown service", err, errdefs.IsNotImplemented, "elsewhere")

	mu.Lock()
	defer mu.Unlock()
	want := []string{"/swarm.v1.CA/Join", "/swarm.v1.Worker/Logs", "/swarm.v1.CA/Join"}
	if !slices.Equal(judged, want) {
		t.Errorf("judged %v, want %v", judged, want)
	}
}

func TestServices_AuthoriseEveryCall(t *testing.T) {
	s := newServices()
	s.SetAuthorise(func(_ context.Context, method string) error {
		return errdefs.ErrPermissionDenied.WithMessage("not " + method)
	})
	e := echo{opened: make(chan struct{}), finish: make(chan struct{})}
	swarmv1.RegisterCAServer(s.For("manager"), refusing{err: errors.New("reached")})
	swarmv1.RegisterWorkerServer(s.For("worker"), e)
	conn := serving(t, s)
	_, err := swarmv1.NewCAClient(conn).Join(t.Context(), &swarmv1.JoinRequest{})
	wantError(t, "unary", err, errdefs.IsPermissionDenied, "not /swarm.v1.CA/Join")
	stream, err := swarmv1.NewWorkerClient(conn).Logs(t.Context(), &swarmv1.TaskLogsRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	wantError(t, "stream", err, errdefs.IsPermissionDenied, "not /swarm.v1.Worker/Logs")
}

func TestServices_ErrorsKeepTheirClass(t *testing.T) {
	for _, c := range []struct {
		err   error
		class func(error) bool
	}{
		{errdefs.ErrNotFound, errdefs.IsNotFound},
		{errdefs.ErrInvalidArgument, errdefs.IsInvalidArgument},
		{errdefs.ErrFailedPrecondition, errdefs.IsFailedPrecondition},
		{errdefs.ErrAlreadyExists, errdefs.IsAlreadyExists},
		{errdefs.ErrUnavailable, errdefs.IsUnavailable},
		{errdefs.ErrDataLoss, errdefs.IsDataLoss},
		{errdefs.ErrAborted, errdefs.IsAborted},
	} {
		s := newServices()
		s.SetAuthorise(func(context.Context, string) error { return nil })
		swarmv1.RegisterCAServer(s.For("manager"), refusing{err: c.err})
		_, err := swarmv1.NewCAClient(serving(t, s)).Join(t.Context(), &swarmv1.JoinRequest{})
		if !c.class(err) || strings.Contains(err.Error(), "rpc error") {
			t.Errorf("%v crosses the wire as %v", c.err, err)
		}
	}
}
