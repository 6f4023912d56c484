package clitest

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

func (s *Server) ListNetworks(context.Context, *swarmv1.ListRequest) (*swarmv1.ListNetworksResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &swarmv1.ListNetworksResponse{Networks: s.Networks}, nil
}

func (s *Server) GetNetwork(_ context.Context, r *swarmv1.GetRequest) (*swarmv1.NetworkInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.Networks {
		if n.Network.Id == r.Id || n.Network.Spec.Name == r.Id {
			return n, nil
		}
	}
	return nil, NotFound("network", r.Id)
}

func (s *Server) SurveyNetwork(context.Context, *swarmv1.GetRequest) (*swarmv1.NetworkSurvey, error) {
	return &swarmv1.NetworkSurvey{Nodes: []*swarmv1.NetworkOnNode{
		{NodeId: "node1", Hostname: "host1", Network: &swarmv1.NodeNetwork{
			Index: 42, Vni: 65537, Mtu: 1450, Underlay: "192.0.2.1", Port: 4789, Netns: "/run/swarm/networks/net1", TaskIds: []string{"task1"},
			Received: &swarmv1.NetworkTraffic{Packets: 3, Bytes: 300}, Sent: &swarmv1.NetworkTraffic{Packets: 2, Bytes: 200, Dropped: 1},
			Peers: []*swarmv1.NodeNetworkPeer{{Addr: "192.0.2.2", Endpoints: 2}},
		}, Differences: []string{"it knows 2 tasks on host 192.0.2.2, and there are 1"}},
		{NodeId: "node2", Hostname: "host2", Error: "it is down"},
	}}, nil
}

func (s *Server) CreateNetwork(_ context.Context, r *swarmv1.CreateNetworkRequest) (*swarmv1.NetworkInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := &swarmv1.NetworkInfo{Network: &swarmv1.Network{Id: "net0000000000000000000009", Spec: r.Spec}}
	s.Networks = append(s.Networks, n)
	return n, nil
}

func (s *Server) RemoveNetwork(ctx context.Context, r *swarmv1.GetRequest) (*swarmv1.RemoveResponse, error) {
	if _, err := s.GetNetwork(ctx, r); err != nil {
		return nil, err
	}
	if s.BeforeRemove != nil {
		s.BeforeRemove()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Removed = append(s.Removed, r.Id)
	return &swarmv1.RemoveResponse{}, nil
}

func (s *Server) PruneNetworks(_ context.Context, r *swarmv1.PruneNetworksRequest) (*swarmv1.PruneNetworksResponse, error) {
	if ids := r.GetFilter().GetIds(); len(ids) > 0 {
		return &swarmv1.PruneNetworksResponse{Removed: ids}, nil
	}
	return &swarmv1.PruneNetworksResponse{Removed: []string{"old", "unused"}}, nil
}

// NetworkServer returns a server with networks of all kinds.
func NetworkServer() *Server {
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
	return &Server{Networks: []*swarmv1.NetworkInfo{local, web}}
}
