package transport

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/encoding/protowire"

	"swarm/internal/ident"
	"swarm/internal/pki"
)

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newRoot(t testing.TB, cluster string) *pki.Root {
	return must[*pki.Root](t)(pki.CreateRoot(cluster, time.Now().Add(-1000*time.Hour)))
}

func bundleOf(t testing.TB, certs ...*x509.Certificate) *pki.Bundle {
	return must[*pki.Bundle](t)(pki.NewBundle(certs...))
}

type signer func(csr []byte, name string, validity time.Duration, now time.Time) (*x509.Certificate, error)

func credential(t testing.TB, sign signer, name string, validity time.Duration, now time.Time) pki.Credential {
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert := must[*x509.Certificate](t)(sign(must[[]byte](t)(pki.CreateCSR(key)), name, validity, now))
	return must[pki.Credential](t)(pki.NewCredential(cert, key))
}

func fresh(t testing.TB, root *pki.Root, id string) pki.Credential {
	return credential(t, root.SignNode, id, time.Hour, time.Now())
}

// expired returns a certificate that expired half an hour ago.
func expired(t testing.TB, root *pki.Root, id string) pki.Credential {
	return credential(t, root.SignNode, id, time.Hour, time.Now().Add(-90*time.Minute))
}

func identity(t testing.TB, cred pki.Credential, roots ...*x509.Certificate) *Identity {
	return must[*Identity](t)(NewIdentity(cred, bundleOf(t, roots...), time.Now))
}

// managerIdentity returns the identity of a manager.
func managerIdentity(t testing.TB, root *pki.Root, id string, roots ...*x509.Certificate) *Identity {
	cred := fresh(t, root, id)
	out := identity(t, cred, roots...)
	if err := out.SetManager(managerCredential(t, root, id, cred)); err != nil {
		t.Fatal(err)
	}
	return out
}

// managerCredential returns a manager credential for the key of a node credential.
func managerCredential(t testing.TB, root *pki.Root, id string, of pki.Credential) pki.Credential {
	csr := must[[]byte](t)(pki.CreateCSR(of.Key))
	cert := must[*x509.Certificate](t)(root.SignManager(csr, pki.Manager{NodeID: id, Issued: 7}, time.Hour, time.Now()))
	return must[pki.Credential](t)(pki.NewCredential(cert, of.Key))
}

// node is a listener on loopback with a gRPC server.
type node struct {
	id    string
	ident *Identity
	addr  string
	ln    *Listener
	seen  chan AuthInfo // the callers
	leave func()        // ends the listener, not the server
}

// probe answers health checks and records the callers.
type probe struct {
	healthpb.UnimplementedHealthServer
	seen chan AuthInfo
	err  func() error
}

func (p probe) Check(ctx context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	info, err := FromContext(ctx)
	if err != nil {
		return nil, err
	}
	if p.err != nil {
		return nil, p.err()
	}
	p.seen <- info
	resp := &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}
	if req.GetService() == "large" {
		resp.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), make([]byte, 2*maxMessage)))
	}
	return resp, nil
}

// Watch answers once and then waits until the caller leaves.
func (p probe) Watch(_ *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	if p.err != nil {
		return p.err()
	}
	if err := stream.Send(&healthpb.HealthCheckResponse{}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

func startNode(t testing.TB, id *Identity, cfg ListenerConfig) *node {
	return startNodeWith(t, id, cfg, nil)
}

// startNodeWith is startNode with an Admit function.
func startNodeWith(t testing.TB, id *Identity, cfg ListenerConfig, admit func(string, AuthInfo) (Trust, error)) *node {
	raw := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	n := &node{
		id: id.NodeID(), ident: id, addr: raw.Addr().String(), seen: make(chan AuthInfo, 100),
		ln: NewListener(cfg, ListenerDeps{Identity: id, Log: slog.New(slog.DiscardHandler), Admit: admit}, raw.Addr()),
	}
	members, workers, strangers := grpc.NewServer(ServerOptions()...), grpc.NewServer(WorkerOptions()...), grpc.NewServer(StrangerOptions()...)
	ctx, cancel := context.WithCancel(context.Background())
	n.leave = cancel
	ran, served := make(chan error, 1), make(chan error, 3)
	for server, part := range map[*grpc.Server]net.Listener{members: n.ln.GRPC(), workers: n.ln.Workers(), strangers: n.ln.Strangers()} {
		healthpb.RegisterHealthServer(server, probe{seen: n.seen})
		go func() { served <- server.Serve(part) }()
	}
	go func() { ran <- n.ln.Run(ctx, raw) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
		members.Stop()
		workers.Stop()
		strangers.Stop()
		<-served
		<-served
		<-served
	})
	return n
}

// resolver returns a resolve function for the given nodes.
func resolver(nodes ...*node) func(string) (string, bool) {
	return func(id string) (string, bool) {
		for _, n := range nodes {
			if n.id == id {
				return n.addr, true
			}
		}
		return "", false
	}
}

func dialer(t testing.TB, id *Identity, nodes ...*node) *Dialer {
	d := NewDialer(id, resolver(nodes...))
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func check(t testing.TB, cc grpc.ClientConnInterface) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

// clock is a clock that tests can move.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

func newID() string { return ident.NewID() }
