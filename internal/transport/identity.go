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

// Identity holds who this process is and whom it trusts. Both can be replaced at any time; handshakes that begin
// afterwards use the new ones, connections that live are not touched. The zero credential means anonymous: a joiner
// that knows the roots only. A manager has a second credential, for the same node, which says that it is a manager; see
// SetManager. It is safe for concurrent use.
type Identity struct {
	now func() time.Time

	mu      sync.Mutex // guards the two below
	state   *identityState
	changed broadcast.Signal // sent by every Set
}

// Which certificate a node that is a manager presents:
//
//	as the server   for gRPC, Raft and the roots   the manager's
//	                for blobs                      the node's
//	as the client   for Raft                       the manager's, and nothing without one
//	                for gRPC                       the manager's, if it is for the key of the node's
//	                for blobs                      the node's
//
// A manager's certificate is signed by the node itself, so that managers reach each other for gRPC
// also when all node certificates have expired. One for an older key is not presented for gRPC: the
// key in use must show in sessions.

// identityState is immutable.
type identityState struct {
	cred    pki.Credential // zero when anonymous
	self    pki.Peer       // what the credential proves, also when it has expired; zero when anonymous
	manager pki.Credential // zero unless the node is a manager
	bundle  *pki.Bundle
	gen     uint64
}

// NewIdentity makes a holder. cred may be zero (anonymous), the bundle may not be nil. now is time.Now outside tests.
func NewIdentity(cred pki.Credential, bundle *pki.Bundle, now func() time.Time) (*Identity, error) {
	id := &Identity{now: now}
	if err := id.Set(cred, bundle); err != nil {
		return nil, err
	}
	return id, nil
}

// Set replaces credential and roots at once, and refuses a credential that the roots do not vouch for: with such a one no
// peer would talk to us any more. An expired one is accepted, since it is what renewal starts from.
func (id *Identity) Set(cred pki.Credential, bundle *pki.Bundle) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.setLocked(cred, bundle)
}

// SetBundle replaces the roots alone.
func (id *Identity) SetBundle(bundle *pki.Bundle) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.setLocked(id.state.cred, bundle)
}

// SetCredential replaces the credential alone.
func (id *Identity) SetCredential(cred pki.Credential) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.setLocked(cred, id.state.bundle)
}

// SetManager gives the node a manager's credential, or with the zero one takes it away. It refuses
// one that is not this node's. Changed does not tell of it; RPCs that begin afterwards go through
// new connections, as after Set.
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

// Manager is the credential that says that this node is a manager, zero when it has none.
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

// Self is what the credential proves; Kind is pki.KindUnknown when anonymous.
func (id *Identity) Self() pki.Peer { return id.load().self }

// NodeID is the node's id, "" for a user or an anonymous one.
func (id *Identity) NodeID() string {
	if self := id.load().self; self.Kind == pki.KindNode {
		return self.ID
	}
	return ""
}

// Credential is the current one.
func (id *Identity) Credential() pki.Credential { return id.load().cred }

// Bundle is the current set of roots.
func (id *Identity) Bundle() *pki.Bundle { return id.load().bundle }

// Changed is closed by the next Set.
func (id *Identity) Changed() <-chan struct{} {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.changed.Changed()
}

// server is the credential for a client that offers these protocols. Clients of ours offer one.
func (s *identityState) server(protos []string) pki.Credential {
	if s.manager.Cert == nil || slices.Contains(protos, ProtoBlob) {
		return s.cred
	}
	return s.manager
}

// client is the credential for a connection that this node opens, zero for an anonymous one.
func (s *identityState) client(alpn string) pki.Credential {
	if alpn == ProtoRaft || alpn == ProtoGRPC && s.manager.Cert != nil && s.manager.Key.Equal(s.cred.Key) {
		return s.manager
	}
	return s.cred
}

// serverConfig is the TLS configuration of one handshake as the server.
func (id *Identity) serverConfig(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	s := id.load()
	cred := s.server(hello.SupportedProtos)
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
		ClientAuth:             tls.RequestClientCert, // verified below, against our roots and with our errors
		SessionTicketsDisabled: true,                  // a resumed session would keep a certificate alive past its renewal
		Time:                   id.now,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := judgeClient(cs, s.bundle, id.now())
			return err
		},
	}, nil
}

// wanted is who must answer a client.
type wanted struct {
	nodeID  string // "": any node of the cluster may
	manager bool   // it must prove to be a manager
	alpn    string
}

// clientConfig is the TLS configuration of one handshake as the client. The returned function gives
// the server's proven identity after the handshake.
func (id *Identity) clientConfig(want wanted) (*tls.Config, func() pki.Peer) {
	s := id.load()
	var peer pki.Peer // written in the handshake, read after it
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{want.alpn},
		InsecureSkipVerify: true, // names are node ids and roots are ours: VerifyConnection does all of it
		Time:               id.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cred := s.client(want.alpn)
			if cred.Cert == nil {
				return &tls.Certificate{}, nil
			}
			present := cred.TLS(s.bundle.Cross()...)
			return &present, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) (err error) {
			peer, err = judgeServer(cs, s.bundle, want, id.now())
			return err
		},
	}, func() pki.Peer { return peer }
}
