package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/members"
	"swarm/internal/pki"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

const (
	// MaxExpired is how long after its expiry a node certificate can still be renewed. A host that
	// was off for longer must leave and join again. Without a limit, the disk of every former host
	// would give access to the cluster for ever.
	MaxExpired = 90 * 24 * time.Hour
	// renewAttempts limits the attempts of a renewal while the row of the node changes.
	renewAttempts = 8
)

const joinAgain = "run `swarm leave --force` on the node and join again"

// Renew signs a new certificate for a node. The old certificate may have expired up to MaxExpired
// ago. Its key must be the newest key of the node, or the key before it until a session with the
// newest key has been seen, because the answer with the newest certificate may have been lost. The
// new key is in the row of the node before the node gets the certificate, so Renew needs a leader.
// Managers do not need a node certificate to elect a leader, because they sign their manager
// certificates themselves.
func (s *Server) Renew(ctx context.Context, req *swarmv1.RenewRequest) (*swarmv1.RenewResponse, error) {
	who, err := transport.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	if who.NodeID() == "" {
		return nil, errdefs.ErrPermissionDenied.WithMessage("renew certificate: only a node can renew its own")
	}
	if wait := s.renewals.Take(RateKey(s.store.View(), who.Peer)); wait > 0 {
		return nil, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf(
			"renew certificate: node %s renews too often: try again in %s", who.NodeID(), wait.Round(time.Millisecond)))
	}
	for range renewAttempts {
		answer, err := s.renew(ctx, who.Peer, req)
		if err == nil || !errdefs.IsAborted(err) {
			return answer, err
		}
	}
	return nil, errdefs.ErrUnavailable.WithMessage("renew certificate: the row of node " + who.NodeID() + " keeps changing: try again")
}

func (s *Server) renew(ctx context.Context, who pki.Peer, req *swarmv1.RenewRequest) (*swarmv1.RenewResponse, error) {
	view, c, err := s.current(ctx, who.ID)
	if err != nil {
		return nil, err
	}
	node, ok := view.Nodes.Get(who.ID)
	if !ok {
		return nil, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("renew certificate: node %s was removed from the cluster: %s", who.ID, joinAgain))
	}
	now := time.Now()
	if err := checkRenewal(node, who, req.GetMachineId(), now); err != nil {
		return nil, err
	}
	root, bundle, err := signingRoot(c)
	if err != nil {
		return nil, fmt.Errorf("renew certificate: %w", err)
	}
	cert, err := root.SignNode(req.GetCsr(), who.ID, validity(c), now)
	if err != nil {
		return nil, fmt.Errorf("renew certificate: %w", err)
	}
	if _, err := s.store.Commit(ctx, "node "+who.ID, table.Update(withNewKey(node, who, cert))); err != nil {
		return nil, fmt.Errorf("renew certificate of node %s: %w", who.ID, err)
	}
	s.log.Info("certificate renewed", "node", who.ID, "until", cert.NotAfter)
	return &swarmv1.RenewResponse{Certificate: certPEM(cert), Bundle: bundle.PEM()}, nil
}

// RateKey returns the key of the rate limit for a call of a node. It is the id of the node if the
// replica allows the node to use the key of the certificate. Any other key has its own limit, so
// the holder of an old certificate does not use up the limit of the node.
func RateKey(view *table.View, who pki.Peer) string {
	if node, ok := view.Nodes.Get(who.ID); ok && members.Allows(node, who.PublicKey()) {
		return who.ID
	}
	return who.ID + " " + string(who.PublicKey())
}

// checkRenewal refuses a renewal of another machine, of a replaced key, or after MaxExpired.
func checkRenewal(node *swarmv1.Node, who pki.Peer, machineID string, now time.Time) error {
	if err := CheckKey(node, who); err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	if node.GetMachineId() != machineID {
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(
			"renew certificate: node id %s belongs to another machine, %s at %s (a cloned disk?): run `swarm leave --force` on one of the two", node.GetId(), node.GetHostname(), node.GetAddr()))
	}
	if ago := now.Sub(who.NotAfter); ago > MaxExpired {
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(
			"renew certificate: the certificate of node %s expired %d days ago, and only %d days are allowed: %s", node.GetId(), ago/(24*time.Hour), MaxExpired/(24*time.Hour), joinAgain))
	}
	return nil
}

// withNewKey returns the row of a node with the key of a new certificate. The previous key becomes
// the key that the node has proved to hold, however many answers were lost.
func withNewKey(node *swarmv1.Node, who pki.Peer, cert *x509.Certificate) *swarmv1.Node {
	next := node.CloneVT()
	next.PublicKey, next.PreviousKey = cert.RawSubjectPublicKeyInfo, who.PublicKey()
	if bytes.Equal(next.PublicKey, next.PreviousKey) {
		next.PreviousKey = nil
	}
	return next
}

// CheckKey returns errdefs.ErrPermissionDenied if newer keys have replaced the key of a node
// certificate.
func CheckKey(node *swarmv1.Node, who pki.Peer) error {
	if members.Allows(node, who.PublicKey()) {
		return nil
	}
	return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(
		"the certificate of node %s is not the one issued last, but an older one (a restored or stolen disk?): %s", node.GetId(), joinAgain))
}

// RecordKeyUse records that a node uses its newest key, so that the key before it is no longer
// accepted. It does nothing if that is known already.
func RecordKeyUse(ctx context.Context, store *raftstore.Store, who pki.Peer) error {
	for range renewAttempts {
		node, ok := store.View().Nodes.Get(who.ID)
		if !ok || len(node.GetPreviousKey()) == 0 || !bytes.Equal(node.GetPublicKey(), who.PublicKey()) {
			return nil
		}
		next := node.CloneVT()
		next.PreviousKey = nil
		if _, err := store.Commit(ctx, "node "+who.ID, table.Update(next)); err == nil || !errdefs.IsAborted(err) {
			return err
		}
	}
	return errors.New("the row of the node keeps changing: try again")
}
