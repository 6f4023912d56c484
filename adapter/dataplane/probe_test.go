//go:build linux

package dataplane

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"swarm/node"
	"swarm/overlay/gossip"
)

// The doctor looks for the nodes of the cluster: also for those that are dead, but not for one that
// was removed.
func TestTargets_OnlyNodesOfTheCluster(t *testing.T) {
	members := []gossip.Member{
		{ID: "self", Status: gossip.Alive},
		{ID: "alive", Status: gossip.Alive},
		{ID: "dead", Status: gossip.Failed},
		{ID: "removed", Status: gossip.Failed},
		{ID: "left", Status: gossip.Left},
	}
	addr := netip.MustParseAddr("192.0.2.1")
	peer := func(id string) (gossip.Peer, bool) {
		return gossip.Peer{ID: id, Addr: addr, DataAddr: addr}, id != "removed"
	}
	var got []string
	for _, n := range targets("self", members, peer, node.Membership{Addr: "192.0.2.9"}) {
		got = append(got, n.ID)
	}
	if diff := cmp.Diff([]string{"alive", "dead"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestDataPath(t *testing.T) {
	for _, tc := range []struct {
		m    node.Membership
		want string
	}{
		{node.Membership{Addr: "192.0.2.1"}, "192.0.2.1:4789"},
		{node.Membership{Addr: "192.0.2.1", DataPathAddr: "198.51.100.1"}, "198.51.100.1:4789"},
		{node.Membership{Addr: "192.0.2.1", DataPathAddr: "2001:db8::1", DataPathPort: 4790}, "[2001:db8::1]:4790"},
	} {
		if got := dataPath(tc.m).String(); got != tc.want {
			t.Errorf("%+v: got %s, want %s", tc.m, got, tc.want)
		}
	}
}
