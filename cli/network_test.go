package cli_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

func (s *fakeServer) ListNetworks(context.Context, *swarmv1.ListRequest) (*swarmv1.ListNetworksResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &swarmv1.ListNetworksResponse{Networks: s.networks}, nil
}

func (s *fakeServer) GetNetwork(_ context.Context, r *swarmv1.GetRequest) (*swarmv1.NetworkInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.networks {
		if n.Network.Id == r.Id || n.Network.Spec.Name == r.Id {
			return n, nil
		}
	}
	return nil, notFound("network", r.Id)
}

func (s *fakeServer) SurveyNetwork(context.Context, *swarmv1.GetRequest) (*swarmv1.NetworkSurvey, error) {
	return &swarmv1.NetworkSurvey{Nodes: []*swarmv1.NetworkOnNode{
		{NodeId: "node1", Hostname: "host1", Network: &swarmv1.NodeNetwork{
			Index: 42, Vni: 65537, Mtu: 1450, Underlay: "192.0.2.1", Port: 4789, Netns: "/run/swarm/networks/net1", TaskIds: []string{"task1"},
			Received: &swarmv1.NetworkTraffic{Packets: 3, Bytes: 300}, Sent: &swarmv1.NetworkTraffic{Packets: 2, Bytes: 200, Dropped: 1},
			Peers: []*swarmv1.NodeNetworkPeer{{Addr: "192.0.2.2", Endpoints: 2}},
		}, Differences: []string{"it knows 2 tasks on host 192.0.2.2, and there are 1"}},
		{NodeId: "node2", Hostname: "host2", Error: "it is down"},
	}}, nil
}

func (s *fakeServer) CreateNetwork(_ context.Context, r *swarmv1.CreateNetworkRequest) (*swarmv1.NetworkInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := &swarmv1.NetworkInfo{Network: &swarmv1.Network{Id: "net0000000000000000000009", Spec: r.Spec}}
	s.networks = append(s.networks, n)
	return n, nil
}

func (s *fakeServer) RemoveNetwork(ctx context.Context, r *swarmv1.GetRequest) (*swarmv1.RemoveResponse, error) {
	if _, err := s.GetNetwork(ctx, r); err != nil {
		return nil, err
	}
	if s.beforeRemove != nil {
		s.beforeRemove()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed = append(s.removed, r.Id)
	return &swarmv1.RemoveResponse{}, nil
}

func (s *fakeServer) PruneNetworks(_ context.Context, r *swarmv1.PruneNetworksRequest) (*swarmv1.PruneNetworksResponse, error) {
	if ids := r.GetFilter().GetIds(); len(ids) > 0 {
		return &swarmv1.PruneNetworksResponse{Removed: ids}, nil
	}
	return &swarmv1.PruneNetworksResponse{Removed: []string{"old", "unused"}}, nil
}

func networkServer() *fakeServer {
	created := &swarmv1.Meta{Version: 7, CreatedAt: timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))}
	web := &swarmv1.NetworkInfo{
		Network: &swarmv1.Network{
			Id: "net0000000000000000000001", Meta: created, Vni: 65537,
			Spec: &swarmv1.NetworkSpec{Name: "web", DriverConfig: &swarmv1.Driver{Name: "overlay"}, Labels: map[string]string{"tier": "front"}},
			Ipam: &swarmv1.IPAMOptions{Configs: []*swarmv1.IPAMConfig{{Subnet: "10.0.1.0/24", Gateway: "10.0.1.1"}}},
		},
		Use: []*swarmv1.AddressUse{{Subnet: "10.0.1.0/24", Used: 2, Total: 253}},
		Services: []*swarmv1.Routing{{ServiceId: "svc1", Name: "api", Endpoint: &swarmv1.Endpoint{
			VirtualIps: []*swarmv1.VirtualIP{{NetworkId: "net0000000000000000000001", Addr: "10.0.1.2/24"}},
			Ports:      []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: 8080}},
		}}},
		Backends: []*swarmv1.Backend{{
			TaskId: "task1", ServiceId: "svc1", NodeId: "node1", Slot: 1, Ready: true,
			Networks: []*swarmv1.NetworkAttachment{{NetworkId: "net0000000000000000000001", Addresses: []string{"10.0.1.3/24"}}},
		}},
		Peers: []*swarmv1.Peering{{NodeId: "node1", Hostname: "host1", Addr: "192.0.2.1"}},
	}
	local := &swarmv1.NetworkInfo{Network: &swarmv1.Network{Id: "bridge", Spec: &swarmv1.NetworkSpec{Name: "bridge", DriverConfig: &swarmv1.Driver{Name: "bridge"}}}}
	return &fakeServer{networks: []*swarmv1.NetworkInfo{local, web}}
}

func TestNetworkCreate(t *testing.T) {
	s := networkServer()
	got := run{server: s}.run(t, "network", "create", "-d", "overlay", "--subnet", "10.9.0.0/24", "--subnet", "fd00:9::/64", "--gateway", "10.9.0.254",
		"--ip-range", "10.9.0.0/26", "--label", "a=b", "--opt", "com.docker.network.driver.mtu=1400", "--internal", "--attachable", "lan")
	if got.code != 0 || got.out != "net0000000000000000000009\n" {
		t.Fatalf("got %+v", got)
	}
	spec := s.networks[2].Network.Spec
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
		refused(t, test.args, run{server: networkServer()}.run(t, append([]string{"network", "create"}, strings.Fields(test.args)...)...), test.says)
	}
}

func TestNetworkLsAndInspect(t *testing.T) {
	golden(t, "network-ls.golden", run{server: networkServer()}.run(t, "network", "ls").out)
	golden(t, "network-ls-json.golden", run{server: networkServer()}.run(t, "network", "ls", "--format", "json", "--no-trunc").out)
	if got := (run{server: networkServer()}).run(t, "network", "ls", "-q", "--filter", "type=custom"); got.out != "net000000000\n" {
		t.Errorf("custom networks: got %+v", got)
	}
	s := networkServer()
	for want, filter := range map[string]string{"web\n": "dangling=true", "bridge\n": "dangling=0"} {
		if got := (run{server: s}).run(t, "network", "ls", "--format", "{{.Name}}", "--filter", filter); got.out != want {
			t.Errorf("%s: got %+v", filter, got)
		}
	}
	s.services = []*swarmv1.ServiceInfo{{Revision: &swarmv1.Revision{Spec: &swarmv1.ServiceSpec{
		TaskTemplate: &swarmv1.TaskSpec{Networks: []*swarmv1.NetworkAttachmentConfig{{Target: "net0000000000000000000001"}}},
	}}}}
	if got := (run{server: s}).run(t, "network", "ls", "-q", "--filter", "dangling=true"); got.out != "" || got.code != 0 {
		t.Errorf("no network dangles: got %+v", got)
	}
	refused(t, "dangling", run{server: s}.run(t, "network", "ls", "--filter", "dangling=x"), "use true or false")
	refused(t, "type", run{server: s}.run(t, "network", "ls", "--filter", "type=x"), "use custom or builtin")
	golden(t, "network-inspect.golden", run{server: networkServer()}.run(t, "network", "inspect", "web").out)
	golden(t, "network-inspect-verbose.golden", run{server: networkServer()}.run(t, "network", "inspect", "-v", "web", "bridge").out)
}

func TestNetworkRmAndPrune(t *testing.T) {
	s := networkServer()
	got := run{server: s}.run(t, "network", "rm", "web", "nosuch")
	if got.code == 0 || got.out != "web\n" || !strings.Contains(got.errOut, "network nosuch: not found") || len(s.removed) != 1 {
		t.Errorf("rm: got %+v", got)
	}
	if got := (run{server: networkServer()}).run(t, "network", "rm", "-f", "nosuch"); got.code != 0 {
		t.Errorf("rm -f: got %+v", got)
	}
	if got := (run{server: networkServer()}).run(t, "network", "prune", "-f"); got.out != "Deleted Networks:\nold\nunused\n" {
		t.Errorf("prune: got %+v", got)
	}
	if got := (run{server: networkServer()}).run(t, "network", "prune", "-f", "--filter", "until=2026-01-02T03:04:06Z"); !strings.Contains(got.out, "net0000000000000000000001") {
		t.Errorf("prune of what is old: got %+v", got)
	}
	if got := (run{server: networkServer()}).run(t, "network", "prune", "-f", "--filter", "until=1969-01-02"); got.out != "" || got.code != 0 {
		t.Errorf("prune of what is older than all: got %+v", got)
	}
	if got := (run{server: networkServer(), stdin: strings.NewReader("n\n")}).run(t, "network", "prune"); got.out != "" || !strings.Contains(got.errOut, "not used by at least one service") {
		t.Errorf("prune, refused: got %+v", got)
	}
}

// Networks are kept by id and named by name.
func TestServiceUpdate_NetworksByName(t *testing.T) {
	s := networkServer()
	s.services = []*swarmv1.ServiceInfo{{
		Service: &swarmv1.Service{Id: "svc1", Name: "api", Meta: &swarmv1.Meta{Version: 3}},
		Revision: &swarmv1.Revision{Spec: &swarmv1.ServiceSpec{Name: "api", TaskTemplate: &swarmv1.TaskSpec{
			ContainerSpec: &swarmv1.ContainerSpec{Image: "docker.io/library/web:1"},
			Networks:      []*swarmv1.NetworkAttachmentConfig{{Target: "net0000000000000000000001"}},
		}}},
	}}
	got := run{server: s}.run(t, "service", "update", "-d", "--network-rm", "web", "--network-add", "name=lan,alias=a", "api")
	if got.code != 0 || len(s.updates) != 1 {
		t.Fatalf("got %+v", got)
	}
	if nets := s.updates[0].Spec.TaskTemplate.Networks; len(nets) != 1 || nets[0].Target != "lan" || nets[0].Aliases[0] != "a" {
		t.Errorf("networks: %v", nets)
	}
}
