package assignment

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
)

// Three nodes keep a loaded image: those that hold it already, and then others that are ready for
// tasks. An image that was pulled is kept by no node, because its registry has it.
func TestImageNodes(t *testing.T) {
	rows := []proto.Message{
		&swarmv1.Image{Id: "loaded", Digest: "sha256:1", Loaded: true}, &swarmv1.Image{Id: "pulled", Digest: "sha256:2"},
		&swarmv1.ImageCopy{Digest: "sha256:1", NodeId: "n4"},
		&swarmv1.ImageCopy{Digest: "sha256:1", NodeId: "n5", Leaving: true},
		&swarmv1.ImageCopy{Digest: "sha256:1", NodeId: "down"},
		&swarmv1.Node{Id: "down"}, &swarmv1.NodeState{NodeId: "down", State: swarmv1.NodeState_DOWN},
		&swarmv1.Node{Id: "drained", Spec: &swarmv1.NodeSpec{Availability: swarmv1.NodeSpec_DRAIN}},
		&swarmv1.NodeState{NodeId: "drained", State: swarmv1.NodeState_READY},
		&swarmv1.Node{Id: "broken"},
		&swarmv1.NodeState{NodeId: "broken", State: swarmv1.NodeState_READY, Description: &swarmv1.NodeDescription{Unavailable: "no runtime"}},
	}
	for i := range 6 {
		id := fmt.Sprint("n", i)
		rows = append(rows, &swarmv1.Node{Id: id}, &swarmv1.NodeState{NodeId: id, State: swarmv1.NodeState_READY})
	}
	view := raftstoretest.View(rows...)
	got := imageNodesOf(view)
	if len(got.byNode) != imageCopies {
		t.Errorf("got %v, want %d nodes", got.byNode, imageCopies)
	}
	if images := got.of("n4"); !slices.Equal(images, []string{"loaded"}) {
		t.Errorf("the node that holds the image keeps %q", images)
	}
	for _, id := range []string{"down", "drained", "broken"} {
		if images := got.of(id); len(images) > 0 {
			t.Errorf("node %s keeps %q", id, images)
		}
	}
	if again := imageNodesOf(view); fmt.Sprint(again.byNode) != fmt.Sprint(got.byNode) {
		t.Errorf("another manager chooses %v, want %v", again.byNode, got.byNode)
	}
}
