package manager_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"swarm/internal/gossipkeys"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// The gossip key is replaced on schedule and when a node is removed. The removed node learns none
// of the new keys.
func TestManager_RotatesGossipKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		keys := func() []*swarmv1.EncryptionKey {
			synctest.Wait()
			return gossipkeys.Order(r.store.View().Cluster().GetGossipKeys())
		}
		primary := func() []byte { return keys()[0].GetKey() }
		first := primary()
		time.Sleep(gossipkeys.Period + time.Second)
		if all := keys(); len(all) != 2 || !all[1].GetStandby() || !bytes.Equal(all[0].GetKey(), first) {
			t.Fatalf("after %s: keys %v", gossipkeys.Period, all)
		}
		time.Sleep(gossipkeys.Settle)
		second := primary()
		if bytes.Equal(second, first) {
			t.Fatal("the new key does not encrypt after it has settled")
		}
		time.Sleep(gossipkeys.Retain)
		if all := keys(); len(all) != 1 {
			t.Fatalf("former keys decrypt still: %v", all)
		}

		node := &swarmv1.Node{Id: "gone", MachineId: "m", Addr: "10.0.0.9", Port: 2377, Spec: &swarmv1.NodeSpec{}}
		if _, err := r.store.Commit(t.Context(), "test", table.Create(node)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.admin.RemoveNode(t.Context(), &swarmv1.RemoveNodeRequest{Id: "gone", Force: true}); err != nil {
			t.Fatal(err)
		}
		if all := keys(); len(all) != 2 || !all[1].GetStandby() {
			t.Fatalf("right after the removal: keys %v", all)
		}
		time.Sleep(gossipkeys.Settle)
		if third := primary(); bytes.Equal(third, second) || bytes.Equal(third, first) || len(third) != 32 {
			t.Errorf("the removed node's key encrypts still, or the key is no key: %d bytes", len(third))
		}
	})
}
