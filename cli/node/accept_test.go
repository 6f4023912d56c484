package node_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

// What a node reports and nobody has accepted is shown everywhere, and accept sends what it prints.
func TestNodeAccept(t *testing.T) {
	s := clitest.NodeServer()
	s.Nodes[0].State.Description.Engine.Labels = map[string]string{"disk": "hdd"}
	s.Nodes[0].State.Pending = &swarmv1.NodeFacts{}
	err := prototext.Unmarshal([]byte(`platform{os:"linux" architecture:"x86_64"} engine_labels{key:"disk" value:"ssd"} engine_labels{key:"vault" value:"yes"}`), s.Nodes[0].State.Pending)
	if err != nil {
		t.Fatal(err)
	}
	host := s.Nodes[0].Node.Hostname
	run := func(args ...string) string {
		got := clitest.Run{Server: s}.Run(t, args...)
		if got.Code != 0 {
			t.Errorf("%v: got %+v", args, got)
		}
		return got.Out
	}
	if got := run("node", "ls", "--format", "{{.Hostname}} {{.Status}}"); !strings.Contains(got, host+" Ready (changes pending)\n") || strings.Count(got, "pending") != 1 {
		t.Errorf("node ls: got %q, want %s marked, and no other", got, host)
	}
	want := "Pending:\n - engine label disk=ssd (was disk=hdd)\n - engine label vault=yes (new)\n No task is placed by them. Accept them with: swarm node accept " + host + "\n"
	if got := run("node", "inspect", "--pretty", host); !strings.HasSuffix(got, want) || !strings.Contains(got, "Engine Labels:\n - disk=hdd\n") {
		t.Errorf("node inspect --pretty: got %q, want the accepted labels, and %q at its end", got, want)
	}
	if got := run("node", "inspect", "-f", "{{.Description.Engine.Labels.disk}} {{.Pending.EngineLabels.disk}}", host); got != "hdd ssd\n" {
		t.Errorf("node inspect: got %q, want both values", got)
	}
	want = "Node " + host + ": accepted engine label disk=ssd (was disk=hdd).\nNode " + host + ": accepted engine label vault=yes (new).\n"
	if got := run("node", "accept", host); got != want {
		t.Errorf("node accept: got %q, want %q", got, want)
	}
	if len(s.AcceptReqs) != 1 || !s.AcceptReqs[0].GetFacts().EqualVT(s.Nodes[0].State.Pending) {
		t.Errorf("requests: got %v, want one with the facts that were printed", s.AcceptReqs)
	}
	clitest.Refused(t, "nothing pending", clitest.Run{Server: s}.Run(t, "node", "accept", s.Nodes[1].Node.Hostname), "has no pending changes")
}
