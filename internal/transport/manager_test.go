package transport

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/pki"
)

// Joiners and users cannot look into the replicated state. They refuse a node that does not prove
// to be a manager, and send it nothing.
func TestDialAddr_RefusesAWorker(t *testing.T) {
	root := newRoot(t, "c1")
	worker := startNode(t, identity(t, fresh(t, root, newID()), root.Cert), ListenerConfig{})
	says := "the host there is node " + worker.id + ", which is not a manager"
	if _, err := PinnedBootstrap(t.Context(), worker.addr, pki.NewToken(root.Cert), time.Now()); err == nil || !strings.Contains(err.Error(), worker.addr+": "+says) {
		t.Errorf("a joiner: got %v, want %q", err, says)
	}
	user := credential(t, root.SignUser, "jane", time.Hour, time.Now())
	for name, cred := range map[string]pki.Credential{"a joiner": {}, "a user": user} {
		c := NewDialer(identity(t, cred, root.Cert), nil).DialAddr(worker.addr)
		defer c.Close()
		if err := check(t, c); err == nil || !strings.Contains(err.Error(), worker.addr+": "+says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %q", name, err, says)
		}
	}
	select {
	case who := <-worker.seen:
		t.Errorf("the worker was called by %s", who)
	default:
	}
}

// raw speaks TLS as an attacker would, with any credential. It returns the connection and the error
// of the handshake.
func raw(t *testing.T, addr, alpn string, cred pki.Credential) (*tls.Conn, error) {
	t.Helper()
	config := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, InsecureSkipVerify: true}
	if cred.Cert != nil {
		config.Certificates = []tls.Certificate{cred.TLS()}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	plain, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(plain, config)
	t.Cleanup(func() { _ = conn.Close() })
	return conn, conn.HandshakeContext(ctx)
}

// A node presents the certificates that the comment of Identity documents.
func TestIdentity_PresentsTheCertificateOfTheProtocol(t *testing.T) {
	root := newRoot(t, "c1")
	id := managerIdentity(t, root, newID(), root.Cert)
	server := startNode(t, id, ListenerConfig{})
	for alpn, want := range map[string]bool{ProtoGRPC: true, ProtoRaft: true, protoRoots: true, ProtoBlob: false} {
		conn, err := raw(t, server.addr, alpn, fresh(t, root, newID()))
		if err != nil {
			t.Errorf("%s: %v", alpn, err)
			continue
		}
		got := conn.ConnectionState().PeerCertificates[0]
		if manager := len(got.Subject.OrganizationalUnit) > 0; manager != want {
			t.Errorf("%s: the server says that it is a manager: %v, want %v", alpn, manager, want)
		}
	}
	for alpn, want := range map[string]bool{ProtoGRPC: true, ProtoRaft: true, ProtoBlob: false} {
		if got := id.load().clientCredential(alpn).Cert.Subject.OrganizationalUnit; (len(got) > 0) != want {
			t.Errorf("%s: the client says that it is a manager: %v, want %v", alpn, got, want)
		}
	}
	// Sessions present the renewed node certificate until the manager certificate has the renewed
	// key too.
	if err := id.SetCredential(fresh(t, root, server.id)); err != nil {
		t.Fatal(err)
	}
	if got := id.load().clientCredential(ProtoGRPC).Cert; got != id.Credential().Cert {
		t.Error("after a renewal: the client presents the certificate of the former key")
	}
	if err := id.SetManager(pki.Credential{}); err != nil {
		t.Fatal(err)
	}
	if id.Manager().Cert != nil || id.load().serverCredential([]string{ProtoGRPC}).Cert != id.Credential().Cert {
		t.Error("a former manager still has a manager's certificate")
	}
	d := dialer(t, id, server)
	if _, err := d.DialALPN(t.Context(), server.id, ProtoRaft); !errdefs.IsUnavailable(err) {
		t.Errorf("a former manager dials for Raft: got %v", err)
	}
}

func TestSetManager_RefusesOtherCredentials(t *testing.T) {
	root, other := newRoot(t, "c1"), newRoot(t, "c1")
	self := newID()
	cred := fresh(t, root, self)
	id := identity(t, cred, root.Cert)
	for name, given := range map[string]pki.Credential{
		"its node certificate": cred,
		"another node's":       managerCredential(t, root, newID(), cred),
		"of another root":      managerCredential(t, other, self, cred),
	} {
		if err := id.SetManager(given); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := id.SetManager(managerCredential(t, root, self, cred)); err != nil {
		t.Error(err)
	}
}

// Raft accepts manager certificates only.
func TestListener_RaftNeedsAManager(t *testing.T) {
	root := newRoot(t, "c1")
	server := startNode(t, managerIdentity(t, root, newID(), root.Cert), ListenerConfig{})
	part := server.ln.Raft()
	id := newID()
	cred := fresh(t, root, id)
	for name, given := range map[string]pki.Credential{
		"a node": cred, "an expired node": expired(t, root, newID()), "nobody": {},
		"a user": credential(t, root.SignUser, "jane", time.Hour, time.Now()),
	} {
		conn, err := raw(t, server.addr, ProtoRaft, given)
		if err == nil { // in TLS 1.3 the client finishes before the server has verified it
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err = conn.Read(make([]byte, 1))
		}
		if err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: got %v, want to be hung up on", name, err)
		}
	}
	if _, err := raw(t, server.addr, ProtoRaft, managerCredential(t, root, id, cred)); err != nil {
		t.Fatal(err)
	}
	in := must[net.Conn](t)(part.Accept())
	defer in.Close()
	if info, ok := PeerOf(in); !ok || info.NodeID() != id || !info.Peer.Manager || info.Peer.Issued != 7 {
		t.Errorf("the server sees %v", info)
	}
}
