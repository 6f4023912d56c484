package node_test

import (
	"strings"
	"testing"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestFilterMembership(t *testing.T) {
	s := &clitest.Server{Nodes: clitest.Nodes()}
	for _, value := range []string{"pending", "nonsense"} {
		clitest.Refused(t, value, clitest.Run{Server: s}.Run(t, "node", "ls", "--filter", "membership="+value), "use accepted")
	}
	if got := (clitest.Run{Server: s}).Run(t, "node", "ls", "-q", "--filter", "membership=accepted"); got.Code != 0 || strings.Count(got.Out, "\n") != len(s.Nodes) {
		t.Errorf("accepted: got %+v", got)
	}
}

func TestNodeLs(t *testing.T) {
	for name, args := range map[string][]string{
		"table": nil, "quiet": {"-q"}, "json": {"--format", "json"},
		"template": {"--format", "{{.ID}}|{{.Self}}|{{.ManagerStatus}}"}, "custom": {"--format", `table {{.Hostname}}\t{{.Availability}}`},
	} {
		got := clitest.Run{Server: clitest.NodeServer()}.Run(t, append([]string{"node", "ls"}, args...)...)
		if got.Code != 0 {
			t.Errorf("%s: got %+v", name, got)
		}
		clitest.Golden(t, "node-ls-"+name+".golden", got.Out)
	}
	clitest.Refused(t, "template", clitest.Run{Server: clitest.NodeServer()}.Run(t, "node", "ls", "--format", "{{.Nope}}"), "there is no field .Nope: see the fields with --format json")
	clitest.Refused(t, "syntax", clitest.Run{Server: clitest.NodeServer()}.Run(t, "node", "ls", "--format", "{{.ID"), "is not a Go template")
	clitest.Refused(t, "filter", clitest.Run{Server: clitest.NodeServer()}.Run(t, "node", "ls", "--filter", "color=red"), `unknown filter "color": use one of id, name`)
}

func TestNodeInspect(t *testing.T) {
	clitest.Golden(t, "node-inspect.golden", clitest.Run{Server: clitest.NodeServer()}.Run(t, "node", "inspect", "host3").Out)
	clitest.Golden(t, "node-inspect-pretty.golden", clitest.Run{Server: clitest.NodeServer()}.Run(t, "node", "inspect", "--pretty", "self").Out)
	got := clitest.Run{Server: clitest.NodeServer()}.Run(t, "node", "inspect", "-f", "{{.Status.State}} {{.Spec.Role}} {{.Description.Resources.NanoCPUs}}", "self")
	if got.Out != "ready manager 2000000000\n" {
		t.Errorf("template: got %+v", got)
	}
	s := clitest.NodeServer()
	s.Nodes[0].State.Description.PortConflicts = []*swarmv1.PortConflict{
		{Port: 82, Protocol: "tcp", Address: "192.0.2.7", Kind: swarmv1.PortConflict_ELSEWHERE, Reason: "no such address"},
		{Port: 81, Protocol: "udp", Kind: swarmv1.PortConflict_UNABLE, Reason: "device swmesh: address already in use"},
		{Port: 80, Protocol: "tcp", Reason: "port 80/tcp is in use on this host by nginx (process 7)"},
	}
	got = clitest.Run{Server: s}.Run(t, "node", "inspect", "--pretty", "host2")
	if want := "Ports used by other programs:\n - port 80/tcp is in use on this host by nginx (process 7)\nPorts that cannot be served:\n - port 81/udp: device swmesh: address already in use\n"; !strings.HasSuffix(got.Out, want) {
		t.Errorf("ports: got %q, want %q at its end", got.Out, want)
	}
	clitest.Refused(t, "unknown", clitest.Run{Server: clitest.NodeServer()}.Run(t, "node", "inspect", "host9"), "node host9: not found")
}

func TestNodeUpdate(t *testing.T) {
	s := clitest.NodeServer()
	s.Stale = 2 // Another write comes first, twice.
	got := clitest.Run{Server: s}.Run(t, "node", "update", "--availability", "active", "--label-rm", "zone", "--label-add", "disk=ssd", "--role", "manager", "host3")
	if got.Code != 0 || got.Out != "host3\n" || len(s.NodeReqs) != 1 {
		t.Fatalf("got %+v, %d requests", got, len(s.NodeReqs))
	}
	req := s.NodeReqs[0]
	if req.Version != 5 || req.Spec.Role != swarmv1.NodeSpec_MANAGER || req.Spec.Availability != swarmv1.NodeSpec_ACTIVE || len(req.Spec.Labels) != 1 || req.Spec.Labels["disk"] != "ssd" {
		t.Errorf("got %v", req)
	}
	s = clitest.NodeServer()
	if got := (clitest.Run{Server: s}).Run(t, "node", "update", "--hostname", "db1", "host3"); got.Code != 0 || len(s.NodeReqs) != 1 || s.NodeReqs[0].Hostname != "db1" {
		t.Errorf("a new hostname: got %+v, %v", got, s.NodeReqs)
	}
	clitest.Refused(t, "label", clitest.Run{Server: clitest.NodeServer()}.Run(t, "node", "update", "--label-rm", "x", "host3"), "key x doesn't exist")
}

func TestNodeRoles(t *testing.T) {
	s := clitest.NodeServer()
	got := clitest.Run{Server: s}.Run(t, "node", "promote", "host3")
	if want := "Error: node host3 has become a manager, but it is down: it votes when it is back\n"; got.Code != 1 || got.ErrOut != want {
		t.Errorf("promote a node that is down: got %+v, want %q", got, want)
	}
	s = clitest.NodeServer()
	s.Nodes[2].State.State = swarmv1.NodeState_READY
	got = clitest.Run{Server: s}.Run(t, "node", "promote", "host1", "host3")
	if s.Nodes[2].GetManagerStatus().GetReachability() != swarmv1.ManagerStatus_REACHABLE {
		t.Error("promote returned before the new manager voted")
	}
	if got.Out != "Node host1 is already a manager.\nNode host3 promoted to a manager in the swarm.\n" || len(s.NodeReqs) != 1 {
		t.Errorf("got %+v, %d requests", got, len(s.NodeReqs))
	}
	got = clitest.Run{Server: s}.Run(t, "node", "demote", "host2")
	if got.Out != "Manager host2 demoted in the swarm.\n" {
		t.Errorf("got %+v", got)
	}
}

func TestNodeRm(t *testing.T) {
	s := clitest.NodeServer()
	got := clitest.Run{Server: s}.Run(t, "node", "rm", "host9", "host3")
	if got.Code != 1 || got.Out != "host3\n" || got.ErrOut != "Error: node host9: not found\n" {
		t.Errorf("got %+v", got)
	}
	if len(s.Removed) != 1 || s.Removed[0] != "c3d4e5f6g7h8i9j0k1l2m3n4o" {
		t.Errorf("removed %v", s.Removed)
	}
}
