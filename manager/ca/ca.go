// Package ca is the certificate authority of a cluster. It admits hosts that know a join token,
// signs and renews the certificates of nodes, and issues the credentials of users. The root
// certificate, its key and the tokens are in the Cluster row. The package itself keeps only rate
// limits (wrong tokens, joins and renewals), so every manager can serve it. Only this package
// creates Node and Credential rows. It does not decide who may call it; the
// authorisation table of the control API does. It opens no connections and runs no goroutine.
package ca

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/logsample"
	"swarm/internal/pace"
	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// Deps holds the objects that a Server uses.
type Deps struct {
	Log   *slog.Logger
	Store *raftstore.Store
}

// Server serves swarmv1.CA from the local replica. Writes go through the leader.
type Server struct {
	swarmv1.UnimplementedCAServer
	log   *slog.Logger
	store *raftstore.Store
	// fresh asks the leader about join tokens and nodes that this replica does not know. guesses
	// limits wrong tokens by origin. refusals logs them. wrong counts them.
	fresh    *raftstore.Refresher
	guesses  *pace.Each[netip.Prefix]
	refusals *logsample.Sampler
	wrong    atomic.Uint64
	// joinsOf limits the joins of each origin, and joins limits all joins.
	joinsOf *pace.Each[netip.Prefix]
	joins   *pace.Each[struct{}]
	// renewals limits the renewals of each node.
	renewals *pace.Each[string]
	// admitting is a semaphore for the admission of hosts. Its holder may use admitted, the index
	// of the rows of the newest node.
	admitting chan struct{}
	admitted  uint64
}

const (
	// guessBurst is the number of wrong join tokens that one origin may try at once, and guessEvery
	// the wait for each further one. A person who mistypes needs a few. The secrets are too long to
	// be guessed at any rate; the limit bounds the work for each attempt.
	guessBurst = 10
	guessEvery = 10 * time.Second
	// renewBurst and renewEvery limit the certificate renewals of one node. Each renewal is a write
	// of the leader and is sent to all nodes. Certificates are valid for at least 30 seconds, and a
	// node whose answer was lost tries again.
	renewBurst = 10
	renewEvery = 10 * time.Second
)

// New makes a Server.
func New(deps Deps) *Server {
	return &Server{
		log: deps.Log, store: deps.Store, fresh: raftstore.NewRefresher(deps.Store), refusals: logsample.New(deps.Log),
		guesses:   pace.New[netip.Prefix](pace.Budget{Burst: guessBurst, Period: guessEvery}),
		renewals:  pace.New[string](pace.Budget{Burst: renewBurst, Period: renewEvery}),
		joinsOf:   pace.New[netip.Prefix](pace.Budget{Burst: joinBurst, Period: joinEvery}),
		joins:     pace.New[struct{}](pace.Budget{Burst: allBurst, Period: allEvery}),
		admitting: make(chan struct{}, 1),
	}
}

// cluster returns the Cluster row of the local replica.
func (s *Server) cluster() (*table.View, *swarmv1.Cluster, error) {
	view := s.store.View()
	c := view.Cluster()
	if c == nil {
		return nil, nil, errdefs.ErrUnavailable.WithMessage("this manager has not received the cluster's state yet: try again, or ask another manager")
	}
	return view, c, nil
}

// bundleOf returns the roots that members trust.
func bundleOf(c *swarmv1.Cluster) (*pki.Bundle, error) {
	b, err := pki.ParseBundle(c.GetRootCa().GetBundle())
	if err != nil {
		return nil, fmt.Errorf("read root certificates of the cluster: %w", err)
	}
	return b, nil
}

// signingRoot returns the root that signs now, with its key, and the bundle.
func signingRoot(c *swarmv1.Cluster) (*pki.Root, *pki.Bundle, error) {
	b, err := bundleOf(c)
	if err != nil {
		return nil, nil, err
	}
	cert, ok := b.Find(c.GetRootCa().GetDigest())
	if !ok {
		return nil, nil, errdefs.ErrInternal.WithMessage("the cluster's signing root is not among its roots")
	}
	root, err := pki.ParseRoot(pki.EncodeCert(cert), c.GetRootCa().GetSigningKey())
	if err != nil {
		return nil, nil, fmt.Errorf("read signing root of the cluster: %w", err)
	}
	return root, b, nil
}

// validity returns the validity of node certificates in this cluster.
func validity(c *swarmv1.Cluster) time.Duration {
	if d := c.GetSpec().GetCaConfig().GetNodeCertExpiry(); d != nil && d.AsDuration() > 0 {
		return d.AsDuration()
	}
	return pki.DefaultValidity
}

// Managers returns the nodes with the role manager, in the order of their ids.
func Managers(view *table.View) []*swarmv1.Peer {
	var out []*swarmv1.Peer
	for n := range view.Nodes.All() {
		if n.GetSpec().GetRole() == swarmv1.NodeSpec_MANAGER {
			out = append(out, &swarmv1.Peer{NodeId: n.GetId(), Addr: n.GetAddr(), Port: n.GetPort()})
		}
	}
	return out
}

// RotateTokens replaces the selected tokens in r. The caller passes a clone of its own.
func RotateTokens(r *swarmv1.RootCA, worker, manager bool) error {
	b, err := pki.ParseBundle(r.GetBundle())
	if err != nil {
		return fmt.Errorf("rotate join token: %w", err)
	}
	root, ok := b.Find(r.GetDigest())
	if !ok {
		return errdefs.ErrInternal.WithMessage("rotate join token: the cluster's signing root is not among its roots")
	}
	if r.JoinTokens == nil {
		r.JoinTokens = &swarmv1.JoinTokens{}
	}
	if worker {
		r.JoinTokens.Worker = pki.NewToken(root).String()
	}
	if manager {
		r.JoinTokens.Manager = pki.NewToken(root).String()
	}
	return nil
}

// newRootCA returns the RootCA of a new cluster.
func newRootCA(root *pki.Root) (*swarmv1.RootCA, *pki.Bundle, error) {
	b, err := pki.NewBundle(root.Cert)
	if err != nil {
		return nil, nil, err
	}
	r := &swarmv1.RootCA{Bundle: b.PEM(), SigningKey: root.KeyPEM(), Digest: pki.RootDigest(root.Cert)}
	return r, b, RotateTokens(r, true, true)
}

func certPEM(cert *x509.Certificate) []byte { return pki.EncodeCert(cert) }
