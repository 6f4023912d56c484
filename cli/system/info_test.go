package system_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestInfo(t *testing.T) {
	s := &clitest.Server{Info: &swarmv1.InfoResponse{
		LocalNodeState: "active", NodeId: "node1", NodeAddr: "10.0.0.1", ClusterId: "c1", Role: swarmv1.NodeSpec_MANAGER, ControlAvailable: true,
		LeaderId: "node1", Managers: 3, Nodes: 5, StateDir: "/var/lib/swarm", RunDir: "/run/swarm", Tasks: 7,
		Members:     []*swarmv1.Member{{NodeId: "node1", Addr: "10.0.0.1:7946", Status: "alive"}},
		Version:     &swarmv1.VersionInfo{Version: "v1", Containerd: "v2.4.2", Runc: "1.5.2", Seccomp: true},
		HostChanges: []string{"nft table inet swarm"}, Uptime: durationpb.New(90 * time.Minute),
		Description: &swarmv1.NodeDescription{Hostname: "host1", Resources: &swarmv1.Resources{NanoCpus: 2e9, MemoryBytes: 8 << 30}},
	}}
	s.Cluster = &swarmv1.Cluster{Spec: &swarmv1.ClusterSpec{Network: &swarmv1.NetworkDefaults{DefaultAddrPool: []string{"10.0.0.0/8", "172.20.0.0/16"}, SubnetSize: 24, DataPathPort: 4789}}}
	clitest.Golden(t, "info.golden", clitest.Run{Server: s}.Run(t, "info").Out)
	for tmpl, want := range map[string]string{
		"{{.NodeID}} {{.Role}} {{len .Members}}": "node1 manager 1\n",
		"{{.Swarm.LocalNodeState}} {{.Swarm.NodeID}} {{.Swarm.ControlAvailable}} {{.Swarm.Managers}} {{.Swarm.Cluster.ID}}": "active node1 true 3 c1\n",
	} {
		if got := (clitest.Run{Server: s}).Run(t, "info", "--format", tmpl); got.Out != want {
			t.Errorf("%s: got %+v, want %q", tmpl, got, want)
		}
	}
}

func TestVersionWithoutDaemon(t *testing.T) {
	got := clitest.Run{}.Run(t, "version")
	if got.Code != 0 || !strings.Contains(got.Out, "Version:     v1.2.3") || !strings.Contains(got.ErrOut, "cannot reach the swarm daemon") {
		t.Errorf("got %+v", got)
	}
	got = clitest.Run{}.Run(t, "version", "-f", "{{.Client.Version}}")
	if got.Code != 0 || got.Out != "v1.2.3\n" || got.ErrOut != "" {
		t.Errorf("template: got %+v", got)
	}
}
