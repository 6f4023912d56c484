package control

import (
	"strings"
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
)

// A list of nodes has what a table shows of a node with a large description, and stays below the
// size of a message.
func TestBrief(t *testing.T) {
	d := &swarmv1.NodeDescription{
		Hostname: "host-a", Unavailable: "no containerd", Resources: &swarmv1.Resources{NanoCpus: 2e9},
		Engine: &swarmv1.EngineDescription{EngineVersion: "1.0", Labels: map[string]string{"a": strings.Repeat("x", 100<<10)}},
	}
	got := brief(&swarmv1.NodeState{NodeId: "n1", State: swarmv1.NodeState_READY, Description: d})
	if n := got.SizeVT(); n > 1<<10 {
		t.Errorf("it has %d bytes", n)
	}
	if g := got.GetDescription(); got.GetState() != swarmv1.NodeState_READY || g.GetHostname() != "host-a" || g.GetUnavailable() == "" || g.GetEngine().GetEngineVersion() != "1.0" || g.GetResources().GetNanoCpus() != 2e9 {
		t.Errorf("got %v, want what a table shows", got)
	}
}
