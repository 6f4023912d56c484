package manager

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"swarm/internal/pki"
	"swarm/manager/ca"
	"swarm/raftstore/table"
)

// certifyPause is the pause after an attempt to sign that failed.
const certifyPause = 10 * time.Second

// certify keeps this node's certificate as a manager valid. It signs a certificate as soon as the
// replica has the authority's key and says that the node is a manager. It signs another one when
// half of the certificate's life is over, and when the node's key has changed. It asks no other
// node, so managers whose certificates have all expired can connect to each other again.
func (m *Manager) certify(ctx context.Context) error {
	if m.deps.Identity == nil {
		return nil
	}
	changed := make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return m.follow(ctx, changed, table.Node, table.Cluster)
	})
	g.Go(func() error {
		for {
			renewed := m.deps.Identity.Changed()
			timer := time.NewTimer(time.Until(m.certifyIfDue(ctx, time.Now())))
			select {
			case <-renewed:
			case <-changed:
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
			if ctx.Err() != nil {
				return nil
			}
		}
	})
	return g.Wait()
}

// certifyIfDue signs a certificate if one is due. It returns the time at which the next one is due,
// or at which to try again.
func (m *Manager) certifyIfDue(ctx context.Context, now time.Time) time.Time {
	node, held := m.deps.Identity.Credential(), m.deps.Identity.Manager()
	if held.Cert != nil && held.Key.Equal(node.Key) {
		if due := pki.RenewAt(held.Cert, 0); due.After(now) {
			return due
		}
	}
	view := m.store.View()
	cred, err := ca.SignManager(view, m.cfg.NodeID, node, now)
	if err == nil {
		err = m.deps.Identity.SetManager(cred)
	}
	if err != nil {
		m.log.Debug("this node cannot prove yet that it is a manager", "node", m.cfg.NodeID, "err", err)
		return now.Add(certifyPause)
	}
	m.log.Info("certificate as a manager signed", "node", m.cfg.NodeID, "index", view.Index(), "until", cred.Cert.NotAfter)
	// After a restart this manager must sign a new certificate to reach the others, and it has only
	// the state of its last snapshot. So the snapshot must have the authority's key.
	if err := m.store.EnsureSnapshot(ctx, view.Index()); err != nil && ctx.Err() == nil {
		m.log.Warn("cannot take a Raft snapshot: if this manager restarts now, it cannot sign a certificate to reach the other managers; check its disk", "node", m.cfg.NodeID, "err", err)
	}
	return pki.RenewAt(cred.Cert, 0)
}

// follow sends to wake at the start and after every change of the tables, until ctx ends. The
// capacity of wake must be 1. While a value waits there, further changes add no other value.
func (m *Manager) follow(ctx context.Context, wake chan<- struct{}, tables ...table.ID) error {
	for ctx.Err() == nil {
		_, w := m.store.Watch(tables...)
		for err := error(nil); err == nil; _, err = w.Next(ctx) {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
		w.Close()
	}
	return nil
}
