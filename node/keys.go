package node

import (
	"bytes"
	"slices"

	"swarm/internal/gossipkeys"
	swarmv1 "swarm/proto/swarm/v1"
)

// onKeys passes the cluster's gossip keys to gossip and stores them. After a restart, gossip begins
// with the stored keys: other nodes accept older keys for some time.
func (m *member) onKeys(all []*swarmv1.EncryptionKey) {
	keys := gossipKeys(all)
	if len(keys) == 0 {
		return // The managers have not sent keys yet. Keep the old ones, because gossip needs a key.
	}
	m.mu.Lock()
	known := slices.EqualFunc(m.state.GossipKeys, keys, bytes.Equal)
	m.state.GossipKeys = keys
	m.mu.Unlock()
	if known {
		return
	}
	if err := m.gossip.UpdateKeys(keys); err != nil {
		m.base.Log.Error("cannot use the new gossip keys: gossip keeps the old ones", "err", err)
	}
	if err := m.saveState(); err != nil {
		m.base.Log.Error("cannot store the new gossip keys: after a restart the managers must send them again", "err", err)
	}
	m.base.Log.Info("gossip keys changed", "keys", len(keys))
}

// gossipKeys returns the gossip keys. The first key encrypts.
func gossipKeys(all []*swarmv1.EncryptionKey) (keys [][]byte) {
	for _, k := range gossipkeys.Order(all) {
		keys = append(keys, k.GetKey())
	}
	return keys
}
