package dispatch

import (
	"slices"
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
)

// A node whose session has just moved is in the answers of two managers. It counts once.
func TestMissingReady_ANodeNamedTwiceIsOne(t *testing.T) {
	ready, down := swarmv1.NodeState_READY, swarmv1.NodeState_DOWN
	view := raftstoretest.View(
		&swarmv1.Node{Id: "moved"}, &swarmv1.NodeState{NodeId: "moved", State: ready},
		&swarmv1.Node{Id: "behind"}, &swarmv1.NodeState{NodeId: "behind", State: ready},
		&swarmv1.Node{Id: "lost"}, &swarmv1.NodeState{NodeId: "lost", State: down},
		&swarmv1.NodeState{NodeId: "removed", State: ready})
	if got, want := missingReady(view, []string{"moved", "moved"}), []string{"behind"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := missingReady(view, []string{"behind", "moved"}); len(got) > 0 {
		t.Errorf("all that are ready: got %q", got)
	}
}
