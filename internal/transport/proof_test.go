package transport

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"swarm/internal/pki"
)

// gate is a server that checks the proof of the caller and answers with a proof of its own.
type gate struct {
	healthpb.UnimplementedHealthServer
	token pki.Token
	// forge makes the header of the answer, nil: AnswerProof does.
	forge func(ctx context.Context) metadata.MD
	// saw is given the header of the call.
	saw func(ctx context.Context, header metadata.MD)
}

func (g gate) judge(ctx context.Context) error {
	header, _ := metadata.FromIncomingContext(ctx)
	if g.saw != nil {
		g.saw(ctx, header)
	}
	if g.forge != nil {
		return grpc.SetHeader(ctx, g.forge(ctx))
	}
	if i, err := Proved(ctx, g.token); err != nil || i < 0 {
		return errdefs.ErrUnauthenticated.WithMessage("wrong token")
	}
	return AnswerProof(ctx, g.token)
}

func (g gate) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, g.judge(ctx)
}

func (g gate) Watch(_ *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	if err := g.judge(stream.Context()); err != nil {
		return err
	}
	for range 2 {
		if err := stream.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}); err != nil {
			return err
		}
	}
	return nil
}

// startGate serves a gate on loopback, and returns its address.
func startGate(t *testing.T, id *Identity, g gate) string {
	raw := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	ln := NewListener(ListenerConfig{}, ListenerDeps{Identity: id, Log: slog.New(slog.DiscardHandler)}, raw.Addr())
	server := grpc.NewServer(StrangerOptions()...)
	healthpb.RegisterHealthServer(server, g)
	part := ln.Strangers()
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() { _ = ln.Run(ctx, raw) })
	wg.Go(func() { _ = server.Serve(part) })
	t.Cleanup(func() {
		cancel()
		server.Stop()
		wg.Wait()
	})
	return raw.Addr().String()
}

// ask makes a unary call and a stream through a connection that proves the token.
func ask(t *testing.T, conn grpc.ClientConnInterface, token pki.Token) (unary, stream error) {
	t.Helper()
	client := healthpb.NewHealthClient(Proving(conn, token))
	_, unary = client.Check(t.Context(), &healthpb.HealthCheckRequest{})
	s, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		return unary, err
	}
	for range 2 {
		if _, err := s.Recv(); err != nil {
			return unary, err
		}
	}
	return unary, nil
}

func TestProving(t *testing.T) {
	root := newRoot(t, "c1")
	server, joiner := managerIdentity(t, root, newID(), root.Cert), identity(t, pki.Credential{}, root.Cert)
	token, other := pki.NewToken(root.Cert), pki.NewToken(root.Cert)
	var mu sync.Mutex
	var sent []string // the proofs that came, all servers'
	saw := func(_ context.Context, header metadata.MD) {
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, header.Get(proofKey)...)
	}
	honest := startGate(t, server, gate{token: token, saw: saw})
	dial := func(addr string) *Conn {
		d := NewDialer(joiner, nil)
		conn := d.DialAddr(addr)
		t.Cleanup(func() { _, _ = conn.Close(), d.Close() })
		return conn
	}
	unary, stream := ask(t, dial(honest), token)
	if unary != nil || stream != nil {
		t.Fatalf("the right token: %v, %v", unary, stream)
	}
	first := sent[0]
	if unary, stream = ask(t, dial(honest), other); !errdefs.IsUnauthorized(unary) || !errdefs.IsUnauthorized(stream) {
		t.Errorf("another token: got %v, %v, want refusals", unary, stream)
	}
	for _, s := range sent {
		if bytes.Contains([]byte(s), []byte(token.Secret)) {
			t.Errorf("the secret was sent: %s", s)
		}
	}
	if sent[len(sent)-1] == first {
		t.Error("two connections have the same proof")
	}
	echo := func(ctx context.Context) metadata.MD {
		header, _ := metadata.FromIncomingContext(ctx)
		return metadata.Pairs(proofKey, header.Get(proofKey)[0])
	}
	for name, forge := range map[string]func(context.Context) metadata.MD{
		"no proof":            func(context.Context) metadata.MD { return nil },
		"an echo":             echo,
		"nonsense":            func(context.Context) metadata.MD { return metadata.Pairs(proofKey, "!") },
		"an empty proof":      func(context.Context) metadata.MD { return metadata.Pairs(proofKey, "") },
		"another token's":     func(ctx context.Context) metadata.MD { return answer(ctx, other) },
		"the right one twice": func(ctx context.Context) metadata.MD { return metadata.Join(answer(ctx, token), answer(ctx, token)) },
		"another connection's": func(context.Context) metadata.MD {
			return metadata.Pairs(proofKey, string(token.Proof(pki.SideManager, make([]byte, bindingSize))))
		},
	} {
		unary, stream := ask(t, dial(startGate(t, server, gate{token: token, forge: forge})), token)
		if !errdefs.IsUnauthorized(unary) || !errdefs.IsUnauthorized(stream) {
			t.Errorf("a server that answers with %s: got %v, %v, want to be told that it does not know the token", name, unary, stream)
		}
	}
}

func answer(ctx context.Context, token pki.Token) metadata.MD {
	info, _ := FromContext(ctx)
	return metadata.Pairs(proofKey, string(token.Proof(pki.SideManager, info.Binding)))
}

// TestProving_Relay: a server between a joiner and a manager passes on what it hears from each of
// them, and gets nowhere.
func TestProving_Relay(t *testing.T) {
	root := newRoot(t, "c1")
	token := pki.NewToken(root.Cert)
	joiner := identity(t, pki.Credential{}, root.Cert)
	manager := startGate(t, managerIdentity(t, root, newID(), root.Cert), gate{token: token})
	d := NewDialer(joiner, nil)
	onward := d.DialAddr(manager)
	defer d.Close()
	defer onward.Close()
	var passed error
	relay := startGate(t, managerIdentity(t, root, newID(), root.Cert), gate{token: token, forge: func(ctx context.Context) metadata.MD {
		header, _ := metadata.FromIncomingContext(ctx)
		out := metadata.NewOutgoingContext(context.WithoutCancel(ctx), metadata.Pairs(proofKey, header.Get(proofKey)[0]))
		var back metadata.MD
		_, passed = healthpb.NewHealthClient(onward).Check(out, &healthpb.HealthCheckRequest{}, grpc.Header(&back))
		return metadata.Pairs(proofKey, append(back.Get(proofKey), "")[0])
	}})
	conn := d.DialAddr(relay)
	defer conn.Close()
	if unary, _ := ask(t, conn, token); !errdefs.IsUnauthorized(unary) {
		t.Errorf("the joiner believes the relay: %v", unary)
	}
	if !errdefs.IsUnauthorized(passed) {
		t.Errorf("the manager believes the relay: %v", passed)
	}
}
