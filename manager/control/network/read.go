package network

import (
	"cmp"
	"context"
	"slices"

	"swarm/internal/spec"
	"swarm/manager/control/address"
	"swarm/manager/control/crud"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// GetNetwork returns a network with its services and tasks, the nodes on which they are, and the
// use of its addresses.
func (s *Server) GetNetwork(_ context.Context, req *swarmv1.GetRequest) (*swarmv1.NetworkInfo, error) {
	if i := slices.Index(spec.LocalNetworks(), req.GetId()); i >= 0 {
		return localNetworks()[i], nil
	}
	v := s.store.View()
	n, err := object.Networks().Find(v, req.GetId())
	if err != nil {
		return nil, err
	}
	info := networkInfo(v, n)
	attachedNodes := make(map[string]bool)
	for svc := range v.Services.All() {
		backends := backendsOn(v, svc.GetId(), n.GetId())
		rev, _ := v.Revision(svc.GetId(), svc.GetRevision())
		if len(backends) == 0 && !object.OnNetwork(rev, n.GetId()) {
			continue
		}
		end, _ := v.Endpoints.Get(svc.GetId())
		info.Services = append(info.Services, &swarmv1.Routing{ServiceId: svc.GetId(), Name: svc.GetName(), Endpoint: end})
		info.Backends = append(info.Backends, backends...)
		for _, b := range backends {
			attachedNodes[b.GetNodeId()] = true
		}
	}
	mesh := address.OfNodes(v)
	for node := range v.Nodes.All() {
		if attachedNodes[node.GetId()] || n.GetSpec().GetIngress() {
			info.Peers = append(info.Peers, &swarmv1.Peering{
				NodeId: node.GetId(), Hostname: node.GetHostname(), Addr: dataPath(node), MeshAddresses: mesh[node.GetId()],
			})
		}
	}
	slices.SortFunc(info.Services, func(a, b *swarmv1.Routing) int { return cmp.Compare(a.GetName(), b.GetName()) })
	slices.SortFunc(info.Peers, func(a, b *swarmv1.Peering) int { return cmp.Compare(a.GetHostname(), b.GetHostname()) })
	return info, nil
}

// ListNetworks returns the built-in networks and the cluster's that the filter matches, ordered by
// name.
func (s *Server) ListNetworks(_ context.Context, req *swarmv1.ListRequest) (*swarmv1.ListNetworksResponse, error) {
	v, out := s.store.View(), &swarmv1.ListNetworksResponse{}
	networks := object.Networks()
	for _, info := range localNetworks() {
		if crud.Matches(req.GetFilter(), networks.Subject(v, info.GetNetwork())) {
			out.Networks = append(out.Networks, info)
		}
	}
	for _, n := range networks.List(v, req.GetFilter()) {
		out.Networks = append(out.Networks, networkInfo(v, n))
	}
	slices.SortStableFunc(out.Networks, func(a, b *swarmv1.NetworkInfo) int {
		return cmp.Compare(a.GetNetwork().GetSpec().GetName(), b.GetNetwork().GetSpec().GetName())
	})
	return out, nil
}

// networkInfo returns a network with the use of its addresses.
func networkInfo(v *table.View, n *swarmv1.Network) *swarmv1.NetworkInfo {
	return &swarmv1.NetworkInfo{Network: n, Use: address.Use(v, n)}
}

// backendsOn returns the tasks of a service that are on a network and on a node, and have not
// ended.
func backendsOn(v *table.View, service, network string) (out []*swarmv1.Backend) {
	for t := range v.TasksOfService(service) {
		if !attached(t, network) || object.Ended(v, t) || t.GetNodeId() == "" {
			continue
		}
		out = append(out, &swarmv1.Backend{
			TaskId: t.GetId(), ServiceId: service, NodeId: t.GetNodeId(), Slot: t.GetSlot(), Networks: t.GetNetworks(),
			Ready: v.Status(t.GetId()).GetReady() && t.GetDesiredState() == swarmv1.TaskState_RUNNING,
		})
	}
	return out
}

// attached reports whether a task is on a network.
func attached(t *swarmv1.Task, network string) bool {
	return slices.ContainsFunc(t.GetNetworks(), func(n *swarmv1.NetworkAttachment) bool { return n.GetNetworkId() == network })
}

// dataPath returns the address to which other nodes send VXLAN packets.
func dataPath(n *swarmv1.Node) string {
	if n.GetDataPathAddr() != "" {
		return n.GetDataPathAddr()
	}
	return n.GetAddr()
}

// localNetworks returns the built-in networks as lists show them, with Docker's drivers.
func localNetworks() []*swarmv1.NetworkInfo {
	var out []*swarmv1.NetworkInfo
	for _, name := range spec.LocalNetworks() {
		driver := name
		if name == "none" {
			driver = "null"
		}
		out = append(out, &swarmv1.NetworkInfo{Network: &swarmv1.Network{
			Id: name, Spec: &swarmv1.NetworkSpec{Name: name, DriverConfig: &swarmv1.Driver{Name: driver}},
		}})
	}
	return out
}
