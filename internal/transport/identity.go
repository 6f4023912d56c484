package transport

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/broadcast"
	"swarm/internal/pki"
)

// Identity holds the credential of this process and the roots that it trusts. Both can be replaced
// at any time: handshakes that begin afterwards use the new ones, and open connections do not
// change. The zero credential means anonymous, which is a joiner that knows the roots only. A
// manager has a second credential for the same node, which says that the node is a manager (see
// SetManager). An Identity is safe for concurrent use.
type Identity struct {
	now func() time.Time

	mu      sync.Mutex // guards state and changed
	state   *identityState
	changed broadcast.Signal // sent by Set, SetBundle and SetCredential
}

// A node that is a manager has two certificates. It presents this one:
//
//	as the server   for gRPC, Raft and the roots   the manager certificate
//	                for blobs                      the node certificate
//	as the client   for Raft                       the manager certificate; without one, nothing
//	                for gRPC                       the manager certificate, if its key is the key
//	                                               of the node certificate, else the node certificate
//	                for blobs                      the node certificate
//
// A manager signs its manager certificate itself, so managers can reach each other for gRPC even if
// all node certificates have expired. A manager certificate with an older key is not presented for
// gRPC, because a session must show the key that is in use.

// identityState is one generation of an Identity. It is immutable.
type identityState struct {
	cred    pki.Credential // zero when anonymous
	self    pki.Peer       // the identity in cred, which may have expired; zero when anonymous
	manager pki.Credential // zero unless the node is a manager
	bundle  *pki.Bundle
	gen     uint64
}

// NewIdentity makes an Identity. cred may be zero (anonymous). bundle must not be nil. now is
// time.Now outside of tests.
func NewIdentity(cred pki.Credential, bundle *pki.Bundle, now func() time.Time) (*Identity, error) {
	id := &Identity{now: now}
	if err := id.Set(cred, bundle); err != nil {
		return nil, err
	}
	return id, nil
}

// Set replaces the credential and the roots atomically. It refuses a credential that the roots do
// not verify, because no peer would accept it. It accepts an expired credential, because a renewal
// starts from one.
func (id *Identity) Set(cred pki.Credential, bundle *pki.Bundle) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.setLocked(cred, bundle)
}

// SetBundle replaces the roots and keeps the credential.
func (id *Identity) SetBundle(bundle *pki.Bundle) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.setLocked(id.state.cred, bundle)
}

// SetCredential replaces the credential and keeps the roots.
func (id *Identity) SetCredential(cred pki.Credential) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.setLocked(cred, id.state.bundle)
}

// SetManager sets the manager credential of the node; the zero credential removes it. SetManager
// refuses a credential that is not a manager credential of this node. It does not close the channel
// of Changed. As after Set, RPCs that begin afterwards use new connections.
func (id *Identity) SetManager(cred pki.Credential) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	next := *id.state
	next.gen++
	next.manager = cred
	if cred.Cert != nil {
		peer, err := pki.Verify([]*x509.Certificate{cred.Cert}, id.state.bundle, id.now())
		if err != nil {
			return fmt.Errorf("set manager credential: %w", err)
		}
		if !peer.Manager || peer.ID != id.state.self.ID {
			return errdefs.ErrInvalidArgument.WithMessage("set manager credential: the certificate is not of this node as a manager")
		}
	}
	id.state = &next
	return nil
}

// Manager returns the manager credential of this node, or the zero credential.
func (id *Identity) Manager() pki.Credential { return id.load().manager }

func (id *Identity) setLocked(cred pki.Credential, bundle *pki.Bundle) error {
	if bundle == nil {
		return errdefs.ErrInvalidArgument.WithMessage("set identity: no roots to trust")
	}
	next := &identityState{cred: cred, bundle: bundle}
	if id.state != nil {
		next.manager = id.state.manager
	}
	if cred.Cert != nil {
		self, err := pki.Verify([]*x509.Certificate{cred.Cert}, bundle, id.now())
		if err != nil && self.Kind == pki.KindUnknown {
			return fmt.Errorf("set identity: %w", err)
		}
		next.self = self
	}
	if id.state != nil {
		next.gen = id.state.gen + 1
	}
	id.state = next
	id.changed.Broadcast()
	return nil
}

func (id *Identity) load() *identityState {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.state
}

// Self returns the identity in the credential. Its Kind is pki.KindUnknown if the process is
// anonymous.
func (id *Identity) Self() pki.Peer { return id.load().self }

// NodeID returns the id of this node, or "" if the process is a user or anonymous.
func (id *Identity) NodeID() string {
	if self := id.load().self; self.Kind == pki.KindNode {
		return self.ID
	}
	return ""
}

// Credential returns the current credential, which is zero if the process is anonymous.
func (id *Identity) Credential() pki.Credential { return id.load().cred }

// Bundle returns the current roots.
func (id *Identity) Bundle() *pki.Bundle { return id.load().bundle }

// Changed returns a channel that the next Set, SetBundle or SetCredential closes.
func (id *Identity) Changed() <-chan struct{} {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.changed.Changed()
}

// serverCredential returns the credential for a client that offers these protocols. Our own clients
// offer one.
func (s *identityState) serverCredential(protos []string) pki.Credential {
	if s.manager.Cert == nil || slices.Contains(protos, ProtoBlob) {
		return s.cred
	}
	return s.manager
}

// clientCredential returns the credential for a connection that this node opens. It is zero for an
// anonymous connection.
func (s *identityState) clientCredential(alpn string) pki.Credential {
	if alpn == ProtoRaft || alpn == ProtoGRPC && s.manager.Cert != nil && s.manager.Key.Equal(s.cred.Key) {
		return s.manager
	}
	return s.cred
}

// serverConfig returns the TLS configuration of one handshake as the server.
func (id *Identity) serverConfig(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	s := id.load()
	cred := s.serverCredential(hello.SupportedProtos)
	if cred.Cert == nil {
		return nil, errdefs.ErrFailedPrecondition.WithMessage("this host has no certificate yet")
	}
	chain := s.bundle.Cross()
	if slices.Contains(hello.SupportedProtos, protoRoots) {
		chain = s.bundle.Certs()
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ProtoGRPC, ProtoRaft, ProtoBlob, protoRoots},
		Certificates:           []tls.Certificate{cred.TLS(chain...)},
		ClientAuth:             tls.RequestClientCert, // VerifyConnection verifies it, with our roots and our errors
		SessionTicketsDisabled: true,                  // a resumed session would keep a certificate alive past its renewal
		Time:                   id.now,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := verifyClient(cs, s.bundle, id.now())
			return err
		},
	}, nil
}

// expectedPeer describes the server that a client accepts.
type expectedPeer struct {
	nodeID  string // "" accepts any node of the cluster
	manager bool   // the server must prove that it is a manager
	alpn    string
}

// clientConfig returns the TLS configuration of one handshake as the client, and a function that
// returns the proved identity of the server after the handshake.
func (id *Identity) clientConfig(want expectedPeer) (*tls.Config, func() pki.Peer) {
	s := id.load()
	var peer pki.Peer // written in the handshake, read after it
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{want.alpn},
		InsecureSkipVerify: true, // VerifyConnection verifies node ids and our own roots instead
		Time:               id.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cred := s.clientCredential(want.alpn)
			if cred.Cert == nil {
				return &tls.Certificate{}, nil
			}
			present := cred.TLS(s.bundle.Cross()...)
			return &present, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) (err error) {
			peer, err = verifyServer(cs, s.bundle, want, id.now())
			return err
		},
	}, func() pki.Peer { return peer }
}
