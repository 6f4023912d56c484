package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"swarm/internal/pki"
)

func TestPinnedBootstrap_ThenAnAnonymousCall(t *testing.T) {
	old, next := newRoot(t, "c1"), newRoot(t, "c1")
	cross := must[*x509.Certificate](t)(old.CrossSign(next.Cert, time.Now()))
	for name, tt := range map[string]struct {
		signer *pki.Root
		bundle []*x509.Certificate
	}{
		"one root":                  {old, []*x509.Certificate{old.Cert}},
		"rotation, before renewal":  {old, []*x509.Certificate{old.Cert, next.Cert, cross}},
		"rotation, after a renewal": {next, []*x509.Certificate{old.Cert, next.Cert, cross}},
	} {
		server := startNode(t, managerIdentity(t, tt.signer, newID(), tt.bundle...), ListenerConfig{})
		got, err := PinnedBootstrap(t.Context(), server.addr, pki.NewToken(old.Cert), time.Now())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.Peer.ID != server.id || got.Bundle.Digest() != server.ident.Bundle().Digest() {
			t.Errorf("%s: got %v", name, got)
		}
		c := NewDialer(must[*Identity](t)(NewIdentity(pki.Credential{}, got.Bundle, time.Now)), nil).DialAddr(server.addr)
		if err := check(t, c); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if info := <-server.seen; !info.Anonymous() {
			t.Errorf("%s: the server sees %v", name, info)
		}
		_ = c.Close()
	}
}

func TestPinnedBootstrap_SaysWhatIsThere(t *testing.T) {
	root, other := newRoot(t, "c1"), newRoot(t, "c1")
	token := pki.NewToken(root.Cert)
	foreign := startNode(t, identity(t, fresh(t, other, newID()), other.Cert), ListenerConfig{})
	late := startNode(t, identity(t, expired(t, root, newID()), root.Cert), ListenerConfig{})
	hello := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	plain, https := httptest.NewServer(hello), httptest.NewTLSServer(hello)
	defer plain.Close()
	defer https.Close()
	// The impostor presents the certificate of the real root, which is public, but no certificate
	// that the root signed.
	impostor := tlsServer(t, fresh(t, other, newID()).TLS(root.Cert))
	// The thief presents the certificate of another node, which is public, but does not have its
	// key. TLS itself refuses it.
	closed := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	_ = closed.Close()
	for _, tt := range []struct{ name, addr, text string }{
		{"nothing", closed.Addr().String(), "connection refused"},
		{"plain HTTP", plain.Listener.Addr().String(), "answers but is not a swarm manager"},
		{"HTTPS", https.Listener.Addr().String(), "answers but is not a swarm manager"},
		{"another cluster", foreign.addr, "join token does not belong to the cluster at " + foreign.addr},
		{"an expired manager", late.addr, "expired at"},
		{"an impostor", impostor, "a root that this host does not know"},
	} {
		_, err := PinnedBootstrap(t.Context(), tt.addr, token, time.Now())
		if err == nil || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.text)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := PinnedBootstrap(ctx, foreign.addr, token, time.Now()); err == nil {
		t.Error("a cancelled bootstrap passes")
	}
}

// tlsServer presents a certificate to every client that offers our ALPN.
func tlsServer(t testing.TB, cert tls.Certificate) string {
	ln := must[net.Listener](t)(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{protoRoots}}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).Handshake()
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().String()
}
