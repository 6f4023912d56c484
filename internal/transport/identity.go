package transport

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/pki"
)

// Identity holds who this process is and whom it trusts. Both can be replaced at any time; handshakes that begin
// afterwards use the new ones, connections that live are not touched. The zero credential means anonymous: a joiner
// that knows the roots only. It is safe for concurrent use.
type Identity struct {
	now func() time.Time

	mu      sync.Mutex // guards the two below
	state   *identityState
	changed chan struct{} // closed and replaced by every Set
}

// identityState is immutable.
type identityState struct {
	cred    pki.Credential
	self    pki.Peer // what the credential proves, also when it has expired; zero when anonymous
	bundle  *pki.Bundle
	gen     uint64
	present *tls.Certificate // nil when anonymous
}

// NewIdentity makes a holder. cred may be zero (anonymous), the bundle may not be nil. now is time.Now outside tests.
func NewIdentity(cred pki.Credential, bundle *pki.Bundle, now func() time.Time) (*Identity, error) {
	id := &Identity{now: now, changed: make(chan struct{})}
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

func (id *Identity) setLocked(cred pki.Credential, bundle *pki.Bundle) error {
	if bundle == nil {
		return errdefs.ErrInvalidArgument.WithMessage("set identity: no roots to trust")
	}
	next := &identityState{cred: cred, bundle: bundle}
	if cred.Cert != nil {
		self, err := pki.Verify([]*x509.Certificate{cred.Cert}, bundle, id.now())
		if err != nil && self.Kind == pki.KindUnknown {
			return fmt.Errorf("set identity: %w", err)
		}
		present := cred.TLS(bundle.Cross()...)
		next.self, next.present = self, &present
	}
	if id.state != nil {
		next.gen = id.state.gen + 1
	}
	id.state = next
	close(id.changed)
	id.changed = make(chan struct{})
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
	return id.changed
}

// serverConfig is the TLS configuration of one handshake as the server.
func (id *Identity) serverConfig(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	s := id.load()
	if s.present == nil {
		return nil, errdefs.ErrFailedPrecondition.WithMessage("this host has no certificate yet")
	}
	present := s.present
	if slices.Contains(hello.SupportedProtos, protoRoots) {
		withRoots := s.cred.TLS(slices.Concat(s.bundle.Cross(), s.bundle.Roots())...)
		present = &withRoots
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ProtoGRPC, ProtoRaft, ProtoBlob, protoRoots},
		Certificates:           []tls.Certificate{*present},
		ClientAuth:             tls.RequestClientCert, // verified below, against our roots and with our errors
		SessionTicketsDisabled: true,                  // a resumed session would keep a certificate alive past its renewal
		Time:                   id.now,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := judgeClient(cs, s.bundle, id.now())
			return err
		},
	}, nil
}

// clientConfig is the TLS configuration of one handshake as the client. wantID is the node that must answer; with "" any
// node of the cluster may. The returned function gives the server's proven identity after the handshake.
func (id *Identity) clientConfig(wantID, alpn string) (*tls.Config, func() pki.Peer) {
	s := id.load()
	var peer pki.Peer // written in the handshake, read after it
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{alpn},
		InsecureSkipVerify: true, // names are node ids and roots are ours: VerifyConnection does all of it
		Time:               id.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if s.present == nil {
				return &tls.Certificate{}, nil
			}
			return s.present, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) (err error) {
			peer, err = judgeServer(cs, s.bundle, wantID, alpn, id.now())
			return err
		},
	}, func() pki.Peer { return peer }
}
