package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"swarm/internal/eventually"
	"swarm/internal/pki"
)

func TestGRPC_PeersProveTheirIDs(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{})
	clientID := newID()
	for _, tt := range []struct {
		name string
		cred pki.Credential
		want func(AuthInfo) bool
	}{
		{"a node", fresh(t, root, clientID), func(a AuthInfo) bool {
			return a.NodeID() == clientID && !a.Expired(time.Now()) && a.User() == "" && a.Peer.ClusterID == "c1"
		}},
		{"an expired node", expired(t, root, clientID), func(a AuthInfo) bool { return a.NodeID() == clientID && a.Expired(time.Now()) }},
		{"a user", credential(t, root.SignUser, "jane", time.Hour, time.Now()), func(a AuthInfo) bool { return a.User() == "jane" && a.NodeID() == "" }},
		{"a user named as a node", credential(t, root.SignUser, clientID, time.Hour, time.Now()), func(a AuthInfo) bool { return a.NodeID() == "" && !a.Anonymous() }},
		{"nobody", pki.Credential{}, func(a AuthInfo) bool { return a.Anonymous() && a.NodeID() == "" && a.User() == "" }},
	} {
		d := dialer(t, identity(t, tt.cred, root.Cert), server)
		if err := check(t, must[*Conn](t)(d.DialGRPC(server.id))); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := <-server.seen; !tt.want(got) {
			t.Errorf("%s: the server sees %v, expired %v", tt.name, got, got.Expired(time.Now()))
		}
	}
}

func TestGRPC_Refusals(t *testing.T) {
	root, other, stranger := newRoot(t, "c1"), newRoot(t, "c2"), newRoot(t, "c1")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{})
	late := startNode(t, identity(t, expired(t, root, newID()), root.Cert), ListenerConfig{})
	wrong := newID()
	for _, tt := range []struct {
		name string
		id   *Identity
		to   string // node id; its address is the server's
		at   *node
		text string
	}{
		{"another id at the address", identity(t, fresh(t, root, newID()), root.Cert), wrong, server, "instead of node " + wrong},
		{"a server of another cluster", identity(t, fresh(t, other, newID()), other.Cert), server.id, server, "another cluster"},
		{"a server of an unknown root", identity(t, fresh(t, stranger, newID()), stranger.Cert), server.id, server, "a root that this host does not know"},
		{"an expired server", identity(t, fresh(t, root, newID()), root.Cert), late.id, late, "expired at"},
	} {
		d := NewDialer(tt.id, func(string) (string, bool) { return tt.at.addr, true })
		err := check(t, must[*Conn](t)(d.DialGRPC(tt.to)))
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "desc =") {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.text)
		}
		_ = d.Close()
	}
}

// The server refuses a client that trusts our roots but presents a certificate of another cluster.
func TestListener_RefusesForeignClients(t *testing.T) {
	root, other := newRoot(t, "c1"), newRoot(t, "c2")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{})
	for name, cred := range map[string]pki.Credential{
		"other cluster": fresh(t, other, newID()),
		"same name":     fresh(t, newRoot(t, "c1"), newID()),
	} {
		err := rawHandshake(server.addr, &tls.Config{
			InsecureSkipVerify: true, NextProtos: []string{ProtoGRPC}, Certificates: []tls.Certificate{cred.TLS()},
		})
		if err == nil || !strings.Contains(err.Error(), "bad certificate") {
			t.Errorf("%s: got %v, want a refused certificate", name, err)
		}
	}
}

func TestListener_RaftAndBlobsAreForNodesOfGoodStanding(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{})
	server.ln.Raft()
	server.ln.Blob()
	for _, proto := range []string{ProtoRaft, ProtoBlob} {
		for name, certs := range map[string][]tls.Certificate{
			"nobody":          nil,
			"an expired node": {expired(t, root, newID()).TLS()},
			"a user":          {credential(t, root.SignUser, "jane", time.Hour, time.Now()).TLS()},
		} {
			err := rawHandshake(server.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{proto}, Certificates: certs})
			if err == nil || !strings.Contains(err.Error(), "bad certificate") {
				t.Errorf("%s for %s: got %v, want a refused certificate", proto, name, err)
			}
		}
	}
}

func TestListener_RefusesUnknownProtocolsAndOldTLS(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{})
	for _, tt := range []struct {
		name, want string
		config     *tls.Config
	}{
		{"unknown ALPN", "no application protocol", &tls.Config{NextProtos: []string{"acme-tls/1"}}},
		{"HTTP/1.1, which crypto/tls lets in without ALPN", "EOF", &tls.Config{NextProtos: []string{"http/1.1"}}},
		{"no ALPN", "EOF", &tls.Config{}},
		{"TLS 1.2", "protocol version", &tls.Config{NextProtos: []string{ProtoGRPC}, MaxVersion: tls.VersionTLS12}},
	} {
		tt.config.InsecureSkipVerify = true
		if err := rawHandshake(server.addr, tt.config); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// rawHandshake connects as a foreign program would, and reads until the server closes the
// connection or 10 s have passed.
func rawHandshake(addr string, config *tls.Config) error {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err = conn.Read(make([]byte, 1)) // in TLS 1.3 a refusal arrives after the client's handshake
	return err
}

func TestListener_StalledClientsHoldUpNobody(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{MaxHandshakes: 4})
	d := dialer(t, identity(t, fresh(t, root, newID()), root.Cert), server)
	stall := func(n int) (conns []net.Conn) {
		for range n {
			conns = append(conns, must[net.Conn](t)(net.Dial("tcp", server.addr)))
		}
		return conns
	}
	defer closeAll(stall(3)) // one handshake is still allowed
	if err := check(t, must[*Conn](t)(d.DialGRPC(server.id))); err != nil {
		t.Fatal(err)
	}
	defer closeAll(stall(9)) // more than the limit of handshakes
	d2 := dialer(t, identity(t, fresh(t, root, newID()), root.Cert), server)
	if err := check(t, must[*Conn](t)(d2.DialGRPC(server.id))); err != nil {
		t.Errorf("a call beside 12 stalled clients of 4: %v", err)
	}
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

func TestListener_ClosesItsConnectionsAtItsEnd(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{})
	d := dialer(t, identity(t, fresh(t, root, newID()), root.Cert), server)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := healthpb.NewHealthClient(must[*Conn](t)(d.DialGRPC(server.id))).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	server.leave()
	if _, err := stream.Recv(); err == nil || ctx.Err() != nil {
		t.Errorf("a stream to a node that has left: got %v after %v, want its end", err, ctx.Err())
	}
}

func TestListener_HandshakeDeadline(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{HandshakeTimeout: 50 * time.Millisecond})
	conn := must[net.Conn](t)(net.Dial("tcp", server.addr))
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("a silent client: got %v, want to be hung up on", err)
	}
}

func TestDialALPN_RaftReachesTheNodeAndNamesIt(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{})
	clientID := newID()
	d := dialer(t, managerIdentity(t, root, clientID, root.Cert), server)
	ctx := t.Context()
	for range 2 { // a sub-listener can be opened again after its Close
		part := server.ln.Raft()
		out := must[net.Conn](t)(d.DialALPN(ctx, server.id, ProtoRaft))
		in := must[net.Conn](t)(part.Accept())
		if info, ok := PeerOf(in); !ok || info.NodeID() != clientID {
			t.Errorf("the server sees %v", info)
		}
		if info, ok := PeerOf(out); !ok || info.NodeID() != server.id {
			t.Errorf("the client sees %v", info)
		}
		if _, err := out.Write([]byte("vote")); err != nil {
			t.Error(err)
		}
		buf := make([]byte, 4)
		if _, err := io.ReadFull(in, buf); err != nil || string(buf) != "vote" {
			t.Errorf("got %q, %v", buf, err)
		}
		closeAll([]net.Conn{in, out})
		_ = part.Close()
		if _, err := part.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close: %v", err)
		}
	}
	if _, err := d.DialALPN(ctx, newID(), ProtoRaft); !errdefs.IsUnavailable(err) {
		t.Errorf("an unknown node: got %v", err)
	}
}

func TestBlobTransport(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{})
	clientID := newID()
	type peerKey struct{}
	hs := &http.Server{
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			info, _ := PeerOf(c)
			return context.WithValue(ctx, peerKey{}, info.NodeID())
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.URL.Path+" for "+r.Context().Value(peerKey{}).(string))
		}),
	}
	served := make(chan error, 1)
	part := server.ln.Blob()
	go func() { served <- hs.Serve(part) }()
	defer func() { _ = hs.Close(); <-served }()

	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	rt := dialer(t, identity(t, fresh(t, root, clientID), root.Cert), server).BlobTransport()
	defer rt.CloseIdleConnections()
	resp, err := (&http.Client{Transport: rt}).Get("http://" + server.id + "/v2/x")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "/v2/x for "+clientID {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestRotation_ConnectionsLiveAndNewOnesUseTheNewRoot(t *testing.T) {
	old, next := newRoot(t, "c1"), newRoot(t, "c1")
	cross := must[*x509.Certificate](t)(old.CrossSign(next.Cert, time.Now()))
	serverID, clientID := newID(), newID()
	server := startNode(t, identity(t, fresh(t, old, serverID), old.Cert), ListenerConfig{})
	client := identity(t, fresh(t, old, clientID), old.Cert)
	c := must[*Conn](t)(dialer(t, client, server).DialGRPC(serverID))

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := healthpb.NewHealthClient(c).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	for i, step := range []func() error{
		func() error { return server.ident.SetBundle(bundleOf(t, old.Cert, next.Cert, cross)) },
		func() error { return server.ident.SetCredential(fresh(t, next, serverID)) }, // the client still knows only the old root
		func() error { return client.SetBundle(bundleOf(t, old.Cert, next.Cert, cross)) },
		func() error { return client.SetCredential(fresh(t, next, clientID)) },
		func() error { return server.ident.SetBundle(bundleOf(t, next.Cert)) },
		func() error { return client.SetBundle(bundleOf(t, next.Cert)) },
	} {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		newcomer := dialer(t, client, server)
		for name, conn := range map[string]*Conn{"the connection": c, "a new one": must[*Conn](t)(newcomer.DialGRPC(serverID))} {
			if err := check(t, conn); err != nil {
				t.Fatalf("step %d, %s: %v", i, name, err)
			}
		}
	}
	if got := stream.Context().Err(); got != nil {
		t.Errorf("the stream from before ended: %v", got)
	}
	eras := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.all)
	}
	if got := eras(); got != 2 {
		t.Errorf("%d connections are open, want the stream's and the current one", got)
	}
	cancel()
	eventually.True(t, "the old connection closes after its last call", func() bool { return eras() == 1 })
	if err := client.SetCredential(fresh(t, old, clientID)); !errors.Is(err, pki.ErrUnknownRoot) {
		t.Errorf("a credential that the roots do not vouch for: got %v", err)
	}
	if err := check(t, c); err != nil {
		t.Errorf("after a refused change: %v", err)
	}
}

// A certificate may expire while its connection is open. The next call sees that it has expired.
func TestAuthInfo_ExpiresOnLiveConnections(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{})
	c := must[*Conn](t)(dialer(t, identity(t, fresh(t, root, newID()), root.Cert), server).DialGRPC(server.id))
	if err := check(t, c); err != nil {
		t.Fatal(err)
	}
	info := <-server.seen
	var tick clock
	if info.Expired(tick.now()) {
		t.Error("expired at once")
	}
	tick.offset.Store(int64(2 * time.Hour))
	if !info.Expired(tick.now()) {
		t.Error("not expired after two hours")
	}
}

func TestDialer_CachesForgetsAndCloses(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, managerIdentity(t, root, newID(), root.Cert), ListenerConfig{})
	d := dialer(t, identity(t, fresh(t, root, newID()), root.Cert), server)
	a, b := must[*Conn](t)(d.DialGRPC(server.id)), must[*Conn](t)(d.DialGRPC(server.id))
	if a != b {
		t.Error("two connections to one node")
	}
	d.Forget(server.id)
	if err := check(t, a); !errdefs.IsUnavailable(err) {
		t.Errorf("a forgotten connection: got %v", err)
	}
	if err := check(t, must[*Conn](t)(d.DialGRPC(server.id))); err != nil {
		t.Error(err)
	}
	_ = d.Close()
	if _, err := d.DialGRPC(server.id); !errdefs.IsUnavailable(err) {
		t.Errorf("after Close: got %v", err)
	}
	byAddr := d.DialAddr(server.addr)
	defer byAddr.Close()
	if err := check(t, byAddr); err != nil {
		t.Error(err)
	}
}

// The listener calls Admit at the handshake and in Review. An expired certificate ends its
// connections.
func TestListener_ClosesWhatIsNoLongerAdmitted(t *testing.T) {
	root := newRoot(t, "c1")
	removed := newID()
	denied := map[string]bool{}
	var mu sync.Mutex // guards denied
	server := startNodeWith(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{}, func(proto string, who AuthInfo) (Trust, error) {
		mu.Lock()
		defer mu.Unlock()
		if denied[proto+" "+who.NodeID()] {
			return Stranger, errdefs.ErrPermissionDenied.WithMessage("removed")
		}
		return Full, nil
	})
	blobs := server.ln.Blob()
	open := func(id string, validity time.Duration) (net.Conn, <-chan error) {
		d := dialer(t, identity(t, credential(t, root.SignNode, id, validity, time.Now()), root.Cert), server)
		conn := must[net.Conn](t)(d.DialALPN(t.Context(), server.id, ProtoBlob))
		accepted := must[net.Conn](t)(blobs.Accept())
		t.Cleanup(func() { _ = conn.Close(); _ = accepted.Close() })
		closed := make(chan error, 1)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			closed <- err
		}()
		return conn, closed
	}
	_, gone := open(removed, time.Hour)
	_, stays := open(newID(), time.Hour)
	_, expires := open(newID(), 2*time.Second)
	mu.Lock()
	denied[ProtoBlob+" "+removed] = true
	mu.Unlock()
	server.ln.Review()
	<-gone
	<-expires
	select {
	case err := <-stays:
		t.Errorf("the connection of a member was closed: %v", err)
	default:
	}
	d := dialer(t, identity(t, fresh(t, root, removed), root.Cert), server)
	if conn, err := d.DialALPN(t.Context(), server.id, ProtoBlob); err == nil {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a peer that is not admitted was served")
		}
	}
}
