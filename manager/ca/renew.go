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
	// MaxExpired is how long after its end a node's certificate can still be renewed: a host that
	// was off for longer leaves and joins again. Without a limit the disk of every former host
	// would be a key to the cluster for ever.
	MaxExpired = 90 * 24 * time.Hour
	// renewAttempts bounds how often a renewal is tried again because the row of the node changed
	// meanwhile.
	renewAttempts = 8
)

const joinAgain = "run `swarm leave --force` on the node and join again"

// Renew signs a fresh certificate for a node. The old one may have expired up to MaxExpired ago. It
// must be for the key issued last, or for the one before as long as no session with the newest has
// been seen: the answer that carried the newest certificate may have been lost. The new key is in
// the node's row before the node gets the certificate, so the call needs the leader. The managers
// need no certificate of this kind to elect one: they sign for themselves.
func (s *Server) Renew(ctx context.Context, req *swarmv1.RenewRequest) (*swarmv1.RenewResponse, error) {
	who, err := transport.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	if who.NodeID() == "" {
		return nil, errdefs.ErrPermissionDenied.WithMessage("renew certificate: only a node can renew its own")
	}
	if wait := s.renewals.Take(PaceOf(s.store.View(), who.Peer)); wait > 0 {
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
	if err := renewable(node, who, req.GetMachineId(), now); err != nil {
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
	if _, err := s.store.Commit(ctx, "node "+who.ID, table.Update(rekeyed(node, who, cert))); err != nil {
		return nil, fmt.Errorf("renew certificate of node %s: %w", who.ID, err)
	}
	s.log.Info("certificate renewed", "node", who.ID, "until", cert.NotAfter)
	return &swarmv1.RenewResponse{Certificate: certPEM(cert), Bundle: bundle.PEM()}, nil
}

// PaceOf names the budget that a call of a node is taken from. It is the node's, if the replica knows the key of the
// certificate as one that the node may use; another key has a budget of its own, so that the holder of an old certificate
// takes nothing from the node.
func PaceOf(view *table.View, who pki.Peer) string {
	if node, ok := view.Nodes.Get(who.ID); ok && members.Allows(node, who.PublicKey()) {
		return who.ID
	}
	return who.ID + " " + string(who.PublicKey())
}

// renewable refuses a renewal that is not the node's, or comes too late.
func renewable(node *swarmv1.Node, who pki.Peer, machineID string, now time.Time) error {
	if err := CheckKey(node, who); err != nil {
		return fmt.Errorf("renew certificate: %w", err)
	}
	if node.GetMachineId() != machineID {
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(
			"renew certificate: node id %s belongs to another machine, %s at %s (a cloned disk?): run `swarm leave --force` on one of the two", node.GetId(), node.GetHostname(), node.GetAddr()))
	}
	if ago := now.Sub(who.NotAfter); ago > MaxExpired {
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(
			"renew certificate: that of node %s expired %d days ago, and %d is the most: %s", node.GetId(), ago/(24*time.Hour), MaxExpired/(24*time.Hour), joinAgain))
	}
	return nil
}

// rekeyed is the row of a node that gets a certificate for a new key. The previous key stays the
// one that the node has proven to hold, however many answers were lost.
func rekeyed(node *swarmv1.Node, who pki.Peer, cert *x509.Certificate) *swarmv1.Node {
	next := node.CloneVT()
	next.PublicKey, next.PreviousKey = cert.RawSubjectPublicKeyInfo, who.PublicKey()
	if bytes.Equal(next.PublicKey, next.PreviousKey) {
		next.PreviousKey = nil
	}
	return next
}

// CheckKey refuses a certificate of a node for a key that newer ones have replaced. The error is of
// class permission denied.
func CheckKey(node *swarmv1.Node, who pki.Peer) error {
	if members.Allows(node, who.PublicKey()) {
		return nil
	}
	return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(
		"the certificate of node %s is not the one issued last, but an older one (a restored or stolen disk?): %s", node.GetId(), joinAgain))
}

// Seen notes that a node uses the key issued last, so that the one before opens nothing any more.
// It does nothing in the usual case, when that is known.
func Seen(ctx context.Context, store *raftstore.Store, who pki.Peer) error {
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
	return errors.New("the row keeps changing")
}
