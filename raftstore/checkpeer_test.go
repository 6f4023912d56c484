package raftstore_test

import (
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// TestCheckPeer: the replica decides if it is as new as the certificate; otherwise the certificate
// decides.
func TestCheckPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		m := l.start(t, raftstore.Config{NodeID: "m1", Bootstrap: true})
		m.awaitLead(t)
		if err := m.CheckPeer("m9", 0); err != nil {
			t.Errorf("a replica without a state refuses: %v", err)
		}
		role := func(id string, r swarmv1.NodeSpec_Role) *swarmv1.Change {
			return table.Put(&swarmv1.Node{Id: id, Spec: &swarmv1.NodeSpec{Role: r}})
		}
		commit := func(c ...*swarmv1.Change) uint64 {
			t.Helper()
			index, err := m.Commit(t.Context(), "test", c...)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.WaitIndex(t.Context(), index); err != nil {
				t.Fatal(err)
			}
			return index
		}
		now := commit(
			table.Put(&swarmv1.Cluster{Id: "c1", Epoch: 1, Format: table.Format}),
			role("m1", swarmv1.NodeSpec_WORKER), role("m2", swarmv1.NodeSpec_MANAGER), role("w1", swarmv1.NodeSpec_WORKER),
		)
		for _, tt := range []struct {
			name, id string
			issued   uint64
			accepted bool
		}{
			{"a manager", "m2", now, true},
			{"a manager with an old certificate", "m2", 1, true},
			{"a manager with a certificate that does not say when", "m2", 0, true},
			{"a worker that was a manager", "w1", now, false},
			{"one that was removed", "gone", now, false},
			{"one that was removed, with an old certificate", "gone", 1, false},
			{"one that came after this replica stopped", "new", now + 1000, true},
			{"one that was promoted after this replica stopped", "w1", now + 1000, true},
			{"one that is demoted and still votes", "m1", now, true},
		} {
			err := m.CheckPeer(tt.id, tt.issued)
			if (err == nil) != tt.accepted || err != nil && !errdefs.IsPermissionDenied(err) {
				t.Errorf("%s: got %v, want accepted: %v", tt.name, err, tt.accepted)
			}
		}
	})
}
