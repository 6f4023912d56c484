package main

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"swarm/node"
	"swarm/overlay/gossip"
)

// The doctor looks for the nodes of the cluster: also for those that are dead, but not for one that was removed.
func TestProbed_OnlyNodesOfTheCluster(t *testing.T) {
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
	for _, n := range probed("self", members, peer, node.Membership{Addr: "192.0.2.9"}) {
		got = append(got, n.ID)
	}
	if diff := cmp.Diff([]string{"alive", "dead"}, got); diff != "" {
		t.Error(diff)
	}
}
