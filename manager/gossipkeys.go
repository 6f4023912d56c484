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

// rotateGossipKeys takes the gossip keys through the steps of a rotation, when each is due, until
// ctx ends. The removal of a node begins a rotation in the same commit, so that a change of leader
// cannot lose it.
func (m *Manager) rotateGossipKeys(ctx context.Context) error {
	view, w := m.store.Watch(table.Cluster)
	defer w.Close()
	for {
		cluster := view.Cluster()
		next, wait := gossipkeys.Step(cluster.GetGossipKeys(), pki.NewGossipKey(), time.Now())
		// Step returns keys that do not change as the same objects, so that == tells whether any
		// does.
		if cluster != nil && !slices.Equal(next, gossipkeys.Order(cluster.GetGossipKeys())) {
			if err := m.writeGossipKeys(ctx, cluster, next); err != nil {
				return err
			}
			m.log.Info("gossip keys changed", "keys", len(next), "encrypts", gossipkeys.Order(next)[0].GetLamportTime())
		}
		looked, cancel := context.WithTimeout(ctx, wait)
		batch, err := w.Next(looked)
		late := looked.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			view = batch.View
		case late:
			view = m.store.View()
		default:
			return err
		}
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

// writeGossipKeys writes the keys unless somebody else has changed the cluster meanwhile.
func (m *Manager) writeGossipKeys(ctx context.Context, cluster *swarmv1.Cluster, keys []*swarmv1.EncryptionKey) error {
	cluster = cluster.CloneVT()
	cluster.GossipKeys = keys
	_, err := m.store.Commit(ctx, "gossip keys", table.Update(cluster))
	if errdefs.IsAborted(err) || errdefs.IsConflict(err) {
		return nil // the watch reports the other change, and the keys are looked at again
	}
	return err
}
