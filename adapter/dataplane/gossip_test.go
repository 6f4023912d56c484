//go:build linux

package dataplane

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"swarm/manager/dispatch/liveness"
	"swarm/node"
	"swarm/overlay/detector"
	"swarm/overlay/gossip"
)

// A verdict about a node that gossip sees again is old.
func TestStatusOf(t *testing.T) {
	for _, tc := range []struct {
		status gossip.Status
		dead   bool
		want   liveness.GossipStatus
	}{
		{gossip.Alive, false, liveness.GossipAlive},
		{gossip.Alive, true, liveness.GossipAlive},
		{gossip.Failed, false, liveness.GossipFailed},
		{gossip.Failed, true, liveness.GossipDead},
		{gossip.Left, false, liveness.GossipLeft},
		{gossip.Left, true, liveness.GossipLeft},
	} {
		if got := statusOf(tc.status, tc.dead); got != tc.want {
			t.Errorf("%s, dead=%t: got %v, want %v", tc.status, tc.dead, got, tc.want)
		}
	}
}

func TestSuspectsOf(t *testing.T) {
	got := suspectsOf([]gossip.Member{{ID: "a", Status: gossip.Alive}, {ID: "f", Status: gossip.Failed}, {ID: "l", Status: gossip.Left}})
	if diff := cmp.Diff(detector.Suspects{Failed: []string{"f"}, Left: []string{"l"}}, got); diff != "" {
		t.Error(diff)
	}
}

func TestSeeds_TheOtherManagers(t *testing.T) {
	got := seeds(node.Membership{NodeID: "self", GossipPort: 7946, Managers: []node.Peer{
		{NodeID: "self", Addr: "192.0.2.1"}, {NodeID: "b", Addr: "192.0.2.2", Port: 2377}, {NodeID: "c", Addr: "2001:db8::3"},
	}})
	if diff := cmp.Diff([]string{"192.0.2.2:7946", "[2001:db8::3]:7946"}, got); diff != "" {
		t.Error(diff)
	}
}
