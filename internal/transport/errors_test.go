package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"swarm/internal/grpctest"
)

// failing returns a connection to an in-memory server. Every call fails with the error of fail.
func failing(t *testing.T, fail func() error) *grpc.ClientConn {
	ln := bufconn.Listen(1 << 16)
	server := grpc.NewServer(ServerOptions()...)
	healthpb.RegisterHealthServer(server, probe{err: fail})
	served := make(chan error, 1)
	go func() { served <- server.Serve(trusting{ln}) }()
	options := append(clientOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }))
	cc := must[*grpc.ClientConn](t)(grpc.NewClient("passthrough:///memory", options...))
	t.Cleanup(func() {
		_ = cc.Close()
		server.Stop()
		<-served
	})
	return cc
}

// trusting marks every connection as local.
type trusting struct{ net.Listener }

func (l trusting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &peerConn{Conn: c, info: AuthInfo{Local: &LocalUser{}}}, nil
}

func TestErrors_ClassAndTextCrossTheWire(t *testing.T) {
	var next error
	cc := failing(t, func() error { return next })
	for _, class := range []error{
		errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrPermissionDenied,
		errdefs.ErrResourceExhausted, errdefs.ErrFailedPrecondition, errdefs.ErrAborted, errdefs.ErrOutOfRange,
		errdefs.ErrNotImplemented, errdefs.ErrInternal, errdefs.ErrUnavailable, errdefs.ErrDataLoss, errdefs.ErrUnauthenticated,
		context.Canceled, context.DeadlineExceeded,
	} {
		next = fmt.Errorf("create service web:\n\tinner: %w", class)
		want := "create service web:; inner: " + class.Error()
		for name, err := range map[string]error{"unary": check(t, cc), "stream": watch(t, cc)} {
			if !errors.Is(err, class) || err.Error() != want {
				t.Errorf("%s: got %v (%v), want %q", name, err, errdefs.Resolve(err), want)
			}
		}
	}
	next = errors.New("odd")
	if err := check(t, cc); !errdefs.IsUnknown(err) || err.Error() != "odd" {
		t.Errorf("an error of no class: got %v", err)
	}
	// An error from one server passes through the next server unchanged.
	next = fmt.Errorf("forward: %w", FromStatus(status.Error(codes.NotFound, "service web is gone")))
	if err := check(t, cc); !errdefs.IsNotFound(err) || err.Error() != "forward: service web is gone" || status.Code(err) != codes.NotFound {
		t.Errorf("forwarded: got %v", err)
	}
}

func watch(t *testing.T, cc *grpc.ClientConn) error {
	stream, err := healthpb.NewHealthClient(cc).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}

func TestErrors_NilAndEOFStay(t *testing.T) {
	if ToStatus(nil) != nil || FromStatus(nil) != nil || !errors.Is(FromStatus(io.EOF), io.EOF) {
		t.Error("nil or EOF was turned into something else")
	}
}

func TestPlainText(t *testing.T) {
	for in, want := range map[string]string{
		"no such service": "no such service",
		`connection error: desc = "transport: Error while dialing: node n1: 10.0.0.1:2377: connection refused"`:                                    "node n1: 10.0.0.1:2377: connection refused",
		`latest balancer error: connection error: desc = "transport: authentication handshake failed: certificate of \"n\" is of another cluster"`: `certificate of "n" is of another cluster`,
		`connection error: desc = "error reading server preface: EOF"`:                                                                             "EOF",
		"error reading from server: EOF": "the connection broke before an answer came (EOF): try again",
	} {
		if got := plainText(in); got != want {
			t.Errorf("plainText(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestServer_RefusesConnectionsOfUnknownOrigin(t *testing.T) {
	server := grpc.NewServer(ServerOptions()...)
	healthpb.RegisterHealthServer(server, probe{})
	cc := grpctest.Serve(t, server) // the listener is not from this package
	if err := check(t, cc); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want unavailable", err)
	}
}
