package node

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	swarmv1 "swarm/proto/swarm/v1"
)

func TestNode_GossipKeysAreStoredInOrder(t *testing.T) {
	manager, host := pair(t)
	if _, err := host.join(manager.cluster.token.String(), manager.addr()); err != nil {
		t.Fatal(err)
	}
	w, g, _ := host.parts()
	w.hooks.OnKeys([]*swarmv1.EncryptionKey{
		{Subsystem: "gossip", Key: []byte("old"), LamportTime: 1},
		{Subsystem: "ipsec", Key: []byte("other"), LamportTime: 9},
		{Subsystem: "gossip", Key: []byte("new"), LamportTime: 2},
		{Subsystem: "gossip", Key: []byte("next"), LamportTime: 3, Standby: true},
	})
	want := [][]byte{[]byte("new"), []byte("old"), []byte("next")}
	if got := g.keys.Load(); got == nil || cmp.Diff(want, *got) != "" {
		t.Errorf("gossip got %q, want %q", got, want)
	}
	m, err := (disk{dir: host.cfg.StateDir}).load()
	if err != nil || cmp.Diff(want, m.GossipKeys) != "" {
		t.Errorf("remembered %q, %v, want %q", m.GossipKeys, err, want)
	}

	g.keys.Store(nil)
	w.hooks.OnKeys(nil) // The managers have not sent keys yet.
	w.hooks.OnKeys([]*swarmv1.EncryptionKey{{Subsystem: "gossip", Key: []byte("new"), LamportTime: 2}, {Subsystem: "gossip", Key: []byte("old"), LamportTime: 1}, {Subsystem: "gossip", Key: []byte("next"), LamportTime: 3, Standby: true}})
	if g.keys.Load() != nil {
		t.Error("gossip got the keys that it has already")
	}
}
