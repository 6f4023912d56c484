package node

import (
	"bytes"
	"slices"

	"swarm/internal/gossipkeys"
	swarmv1 "swarm/proto/swarm/v1"
)

// onKeys takes over the gossip keys of the cluster, and remembers them: a node that was off while they changed must
// still be understood by those that kept the older one.
func (m *member) onKeys(all []*swarmv1.EncryptionKey) {
	keys := gossipKeys(all)
	if len(keys) == 0 {
		return // Not yet sent, or none: without keys there is no gossip.
	}
	m.mu.Lock()
	known := slices.EqualFunc(m.state.GossipKeys, keys, bytes.Equal)
	m.state.GossipKeys = keys
	after := m.state
	m.mu.Unlock()
	if known {
		return
	}
	if err := m.gossip.UpdateKeys(keys); err != nil {
		m.base.Log.Error("take over new gossip keys", "err", err)
	}
	if err := m.node.disk.save(&after); err != nil {
		m.base.Log.Error("remember new gossip keys", "err", err)
	}
	m.base.Log.Info("gossip keys changed", "keys", len(keys))
}

// gossipKeys picks the keys of gossip, first the one that encrypts.
func gossipKeys(all []*swarmv1.EncryptionKey) (keys [][]byte) {
	for _, k := range gossipkeys.Order(all) {
		keys = append(keys, k.GetKey())
	}
	return keys
}
