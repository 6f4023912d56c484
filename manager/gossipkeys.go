package manager

import (
	"context"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/gossipkeys"
	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// rotateGossipKeys is a duty of the leader. It makes each step of a rotation of the gossip keys
// when the step is due, until ctx ends. A rotation begins every gossipkeys.Period, and when a node
// is removed: RemoveNode begins it in the commit that removes the node, and the duty forget begins
// it after its commits.
func (m *Manager) rotateGossipKeys(ctx context.Context) error {
	view, w := m.store.Watch(table.Cluster)
	defer w.Close()
	for {
		cluster := view.Cluster()
		next, wait := gossipkeys.Step(cluster.GetGossipKeys(), pki.NewGossipKey(), time.Now())
		// Step returns a key that it does not change as the same pointer, so Equal tells whether
		// any key has changed.
		if cluster != nil && !slices.Equal(next, gossipkeys.Order(cluster.GetGossipKeys())) {
			if err := m.writeGossipKeys(ctx, cluster, next); err != nil {
				return err
			}
			m.log.Info("gossip keys changed", "keys", len(next), "encrypts", gossipkeys.Order(next)[0].GetLamportTime())
		}
		if _, err := w.NextBefore(ctx, time.Now().Add(wait)); err != nil {
			return err
		}
		view = m.store.View()
	}
}

// replaceGossipKey begins a rotation now.
func (m *Manager) replaceGossipKey(ctx context.Context) error {
	cluster := m.store.View().Cluster()
	if cluster == nil {
		return nil
	}
	return m.writeGossipKeys(ctx, cluster, gossipkeys.Replace(cluster.GetGossipKeys(), pki.NewGossipKey(), time.Now()))
}

// writeGossipKeys writes the keys. If the row of the cluster has changed meanwhile, it writes
// nothing and returns nil.
func (m *Manager) writeGossipKeys(ctx context.Context, cluster *swarmv1.Cluster, keys []*swarmv1.EncryptionKey) error {
	cluster = cluster.CloneVT()
	cluster.GossipKeys = keys
	_, err := m.store.Commit(ctx, "gossip keys", table.Update(cluster))
	if errdefs.IsAborted(err) {
		return nil // The watch of rotateGossipKeys reports the other change, and the step is made then.
	}
	return err
}
