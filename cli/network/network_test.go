package network_test

import (
	"strings"
	"testing"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestNetworkCreate(t *testing.T) {
	s := clitest.NetworkServer()
	got := clitest.Run{Server: s}.Run(t, "network", "create", "-d", "overlay", "--subnet", "10.9.0.0/24", "--subnet", "fd00:9::/64", "--gateway", "10.9.0.254",
		"--ip-range", "10.9.0.0/26", "--label", "a=b", "--opt", "com.docker.network.driver.mtu=1400", "--internal", "--attachable", "lan")
	if got.Code != 0 || got.Out != "net0000000000000000000009\n" {
		t.Fatalf("got %+v", got)
	}
	spec := s.Networks[2].Network.Spec
	want := &swarmv1.NetworkSpec{
		Name: "lan", Labels: map[string]string{"a": "b"}, Internal: true, Attachable: true, Ipv6Enabled: true,
		DriverConfig: &swarmv1.Driver{Name: "overlay", Options: map[string]string{"com.docker.network.driver.mtu": "1400"}},
		Ipam: &swarmv1.IPAMOptions{Driver: &swarmv1.Driver{Name: "default"}, Configs: []*swarmv1.IPAMConfig{
			{Subnet: "10.9.0.0/24", Gateway: "10.9.0.254", Range: "10.9.0.0/26"}, {Subnet: "fd00:9::/64"},
		}},
	}
	if !spec.EqualVT(want) {
		t.Errorf("got %v\nwant %v", spec, want)
	}
	for _, test := range []struct{ args, says string }{
		{"--opt encrypted lan", "traffic between hosts is not encrypted"},
		{"--opt com.docker.network.driver.mtu=big lan", "use a number from 1280 to 65535"},
		{"--opt a=b lan", `network option "a" is not known`},
		{"-d bridge lan", "networks of driver bridge are built in"},
		{"--gateway 10.1.0.1 lan", "no subnet has gateway 10.1.0.1 in it"},
		{"--subnet 10.1.0.0/33 lan", "write it like 10.1.0.0/24"},
		{"--ip-range x --subnet 10.1.0.0/24 lan", "not in CIDR format"},
		{"--scope local lan", "networks are of the whole swarm"},
		{"host", "built in"},
	} {
		clitest.Refused(t, test.args, clitest.Run{Server: clitest.NetworkServer()}.Run(t, append([]string{"network", "create"}, strings.Fields(test.args)...)...), test.says)
	}
}

func TestNetworkLsAndInspect(t *testing.T) {
	clitest.Golden(t, "network-ls.golden", clitest.Run{Server: clitest.NetworkServer()}.Run(t, "network", "ls").Out)
	clitest.Golden(t, "network-ls-json.golden", clitest.Run{Server: clitest.NetworkServer()}.Run(t, "network", "ls", "--format", "json", "--no-trunc").Out)
	if got := (clitest.Run{Server: clitest.NetworkServer()}).Run(t, "network", "ls", "-q", "--filter", "type=custom"); got.Out != "net000000000\n" {
		t.Errorf("custom networks: got %+v", got)
	}
	s := clitest.NetworkServer()
	for want, filter := range map[string]string{"web\n": "dangling=true", "bridge\n": "dangling=0"} {
		if got := (clitest.Run{Server: s}).Run(t, "network", "ls", "--format", "{{.Name}}", "--filter", filter); got.Out != want {
			t.Errorf("%s: got %+v", filter, got)
		}
	}
	s.Services = []*swarmv1.ServiceInfo{{Revision: &swarmv1.Revision{Spec: &swarmv1.ServiceSpec{
		TaskTemplate: &swarmv1.TaskSpec{Networks: []*swarmv1.NetworkAttachmentConfig{{Target: "net0000000000000000000001"}}},
	}}}}
	if got := (clitest.Run{Server: s}).Run(t, "network", "ls", "-q", "--filter", "dangling=true"); got.Out != "" || got.Code != 0 {
		t.Errorf("no network dangles: got %+v", got)
	}
	clitest.Refused(t, "dangling", clitest.Run{Server: s}.Run(t, "network", "ls", "--filter", "dangling=x"), "use true or false")
	clitest.Refused(t, "type", clitest.Run{Server: s}.Run(t, "network", "ls", "--filter", "type=x"), "use custom or builtin")
	clitest.Golden(t, "network-inspect.golden", clitest.Run{Server: clitest.NetworkServer()}.Run(t, "network", "inspect", "web").Out)
	clitest.Golden(t, "network-inspect-verbose.golden", clitest.Run{Server: clitest.NetworkServer()}.Run(t, "network", "inspect", "-v", "web", "bridge").Out)
}

func TestNetworkRmAndPrune(t *testing.T) {
	s := clitest.NetworkServer()
	got := clitest.Run{Server: s}.Run(t, "network", "rm", "web", "nosuch")
	if got.Code == 0 || got.Out != "web\n" || !strings.Contains(got.ErrOut, "network nosuch: not found") || len(s.Removed) != 1 {
		t.Errorf("rm: got %+v", got)
	}
	if got := (clitest.Run{Server: clitest.NetworkServer()}).Run(t, "network", "rm", "-f", "nosuch"); got.Code != 0 {
		t.Errorf("rm -f: got %+v", got)
	}
	if got := (clitest.Run{Server: clitest.NetworkServer()}).Run(t, "network", "prune", "-f"); got.Out != "Deleted Networks:\nold\nunused\n" {
		t.Errorf("prune: got %+v", got)
	}
	if got := (clitest.Run{Server: clitest.NetworkServer()}).Run(t, "network", "prune", "-f", "--filter", "until=2026-01-02T03:04:06Z"); !strings.Contains(got.Out, "net0000000000000000000001") {
		t.Errorf("prune of what is old: got %+v", got)
	}
	if got := (clitest.Run{Server: clitest.NetworkServer()}).Run(t, "network", "prune", "-f", "--filter", "until=1969-01-02"); got.Out != "" || got.Code != 0 {
		t.Errorf("prune of what is older than all: got %+v", got)
	}
	if got := (clitest.Run{Server: clitest.NetworkServer(), Stdin: strings.NewReader("n\n")}).Run(t, "network", "prune"); got.Out != "" || !strings.Contains(got.ErrOut, "not used by at least one service") {
		t.Errorf("prune, refused: got %+v", got)
	}
}
