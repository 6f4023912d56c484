package cli_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

func testNodes() []*swarmv1.NodeInfo {
	node := func(id, host string, spec *swarmv1.NodeSpec, state swarmv1.NodeState_State, m *swarmv1.ManagerStatus) *swarmv1.NodeInfo {
		return &swarmv1.NodeInfo{
			Node: &swarmv1.Node{
				Id: id, Hostname: host, Addr: "10.0.0.1", Spec: spec,
				Meta: &swarmv1.Meta{Version: 5, CreatedAt: timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))},
			},
			State: &swarmv1.NodeState{State: state, Description: &swarmv1.NodeDescription{
				Hostname: host, Engine: &swarmv1.EngineDescription{EngineVersion: "v1.2.3", Builds: []*swarmv1.RunningBuild{
					{Part: "daemon", Build: "v1.2.3-b"}, {Part: "runtime", Build: "v1.2.3-b"}, {Part: "shim", Build: "v1.2.2-a"}, {Part: "shim", Build: "v1.2.3-b"},
				}},
				Platform: &swarmv1.Platform{Architecture: "x86_64", Os: "linux"}, Resources: &swarmv1.Resources{NanoCpus: 2e9, MemoryBytes: 1 << 30},
			}},
			ManagerStatus: m,
		}
	}
	manager := &swarmv1.NodeSpec{Role: swarmv1.NodeSpec_MANAGER}
	return []*swarmv1.NodeInfo{
		node("b2c3d4e5f6g7h8i9j0k1l2m3n", "host2", manager, swarmv1.NodeState_READY, &swarmv1.ManagerStatus{Reachability: swarmv1.ManagerStatus_REACHABLE, Addr: "10.0.0.2:2377"}),
		node("a1b2c3d4e5f6g7h8i9j0k1l2m", "host1", manager, swarmv1.NodeState_READY, &swarmv1.ManagerStatus{Leader: true, Reachability: swarmv1.ManagerStatus_REACHABLE, Addr: "10.0.0.1:2377"}),
		node("c3d4e5f6g7h8i9j0k1l2m3n4o", "host3", &swarmv1.NodeSpec{Availability: swarmv1.NodeSpec_DRAIN, Labels: map[string]string{"zone": "east"}}, swarmv1.NodeState_DOWN, nil),
	}
}

func nodeServer() *fakeServer {
	return &fakeServer{nodes: testNodes(), info: &swarmv1.InfoResponse{NodeId: "a1b2c3d4e5f6g7h8i9j0k1l2m"}}
}

func TestNodeLs(t *testing.T) {
	for name, args := range map[string][]string{
		"table": nil, "quiet": {"-q"}, "json": {"--format", "json"},
		"template": {"--format", "{{.ID}}|{{.Self}}|{{.ManagerStatus}}"}, "custom": {"--format", `table {{.Hostname}}\t{{.Availability}}`},
	} {
		got := run{server: nodeServer()}.run(t, append([]string{"node", "ls"}, args...)...)
		if got.code != 0 {
			t.Errorf("%s: got %+v", name, got)
		}
		golden(t, "node-ls-"+name+".golden", got.out)
	}
	refused(t, "template", run{server: nodeServer()}.run(t, "node", "ls", "--format", "{{.Nope}}"), "there is no field .Nope: see the fields with --format json")
	refused(t, "syntax", run{server: nodeServer()}.run(t, "node", "ls", "--format", "{{.ID"), "is not a Go template")
	refused(t, "filter", run{server: nodeServer()}.run(t, "node", "ls", "--filter", "color=red"), `unknown filter "color": use one of id, name`)
}

func TestNodeInspect(t *testing.T) {
	golden(t, "node-inspect.golden", run{server: nodeServer()}.run(t, "node", "inspect", "host3").out)
	golden(t, "node-inspect-pretty.golden", run{server: nodeServer()}.run(t, "node", "inspect", "--pretty", "self").out)
	got := run{server: nodeServer()}.run(t, "node", "inspect", "-f", "{{.Status.State}} {{.Spec.Role}} {{.Description.Resources.NanoCPUs}}", "self")
	if got.out != "ready manager 2000000000\n" {
		t.Errorf("template: got %+v", got)
	}
	s := nodeServer()
	s.nodes[0].State.Description.PortConflicts = []*swarmv1.PortConflict{
		{Port: 82, Protocol: "tcp", Address: "192.0.2.7", Kind: swarmv1.PortConflict_ELSEWHERE, Reason: "no such address"},
		{Port: 81, Protocol: "udp", Kind: swarmv1.PortConflict_UNABLE, Reason: "device swmesh: address already in use"},
		{Port: 80, Protocol: "tcp", Reason: "port 80/tcp is in use on this host by nginx (process 7)"},
	}
	got = run{server: s}.run(t, "node", "inspect", "--pretty", "host2")
	if want := "Ports of others:\n - port 80/tcp is in use on this host by nginx (process 7)\nPorts not answered:\n - port 81/udp: device swmesh: address already in use\n"; !strings.HasSuffix(got.out, want) {
		t.Errorf("ports: got %q, want %q at its end", got.out, want)
	}
	refused(t, "unknown", run{server: nodeServer()}.run(t, "node", "inspect", "host9"), "node host9: not found")
}

func TestNodeUpdate(t *testing.T) {
	s := nodeServer()
	s.stale = 2 // somebody else writes in between, twice
	got := run{server: s}.run(t, "node", "update", "--availability", "active", "--label-rm", "zone", "--label-add", "disk=ssd", "--role", "manager", "host3")
	if got.code != 0 || got.out != "host3\n" || len(s.nodeReqs) != 1 {
		t.Fatalf("got %+v, %d requests", got, len(s.nodeReqs))
	}
	req := s.nodeReqs[0]
	if req.Version != 5 || req.Spec.Role != swarmv1.NodeSpec_MANAGER || req.Spec.Availability != swarmv1.NodeSpec_ACTIVE || len(req.Spec.Labels) != 1 || req.Spec.Labels["disk"] != "ssd" {
		t.Errorf("got %v", req)
	}
	s = nodeServer()
	if got := (run{server: s}).run(t, "node", "update", "--hostname", "db1", "host3"); got.code != 0 || len(s.nodeReqs) != 1 || s.nodeReqs[0].Hostname != "db1" {
		t.Errorf("a new hostname: got %+v, %v", got, s.nodeReqs)
	}
	refused(t, "label", run{server: nodeServer()}.run(t, "node", "update", "--label-rm", "x", "host3"), "key x doesn't exist")
}

func TestNodeRoles(t *testing.T) {
	s := nodeServer()
	got := run{server: s}.run(t, "node", "promote", "host3")
	if want := "Error: node host3 is a manager from now on, but it is down: it gets its vote when it is back\n"; got.code != 1 || got.errOut != want {
		t.Errorf("promote a node that is down: got %+v, want %q", got, want)
	}
	s = nodeServer()
	s.nodes[2].State.State = swarmv1.NodeState_READY
	got = run{server: s}.run(t, "node", "promote", "host1", "host3")
	if s.nodes[2].GetManagerStatus().GetReachability() != swarmv1.ManagerStatus_REACHABLE {
		t.Error("promote returned before the new manager voted")
	}
	if got.out != "Node host1 is already a manager.\nNode host3 promoted to a manager in the swarm.\n" || len(s.nodeReqs) != 1 {
		t.Errorf("got %+v, %d requests", got, len(s.nodeReqs))
	}
	got = run{server: s}.run(t, "node", "demote", "host2")
	if got.out != "Manager host2 demoted in the swarm.\n" {
		t.Errorf("got %+v", got)
	}
}

func TestNodeRm(t *testing.T) {
	s := nodeServer()
	got := run{server: s}.run(t, "node", "rm", "host9", "host3")
	if got.code != 1 || got.out != "host3\n" || got.errOut != "Error: node host9: not found\n" {
		t.Errorf("got %+v", got)
	}
	if len(s.removed) != 1 || s.removed[0] != "c3d4e5f6g7h8i9j0k1l2m3n4o" {
		t.Errorf("removed %v", s.removed)
	}
}
