//go:build linux

package dataplane

import (
	"cmp"
	"context"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/overlay/fabric"
	"swarm/overlay/mesh"
	"swarm/overlay/plane"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/usage"
)

// meshDevice is the name of the routing mesh's device. It is the default of mesh.Config.Device.
const meshDevice = "swmesh"

// Inspect describes an overlay network as this host's kernel has it. Absent is set if the kernel
// does not have the network.
func (p *Plane) Inspect(ctx context.Context, id string) (*swarmv1.NodeNetwork, error) {
	all, err := p.Networks(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range all {
		if n.ID == id {
			return nodeNetwork(n), nil
		}
	}
	return &swarmv1.NodeNetwork{Absent: true}, nil
}

// Networks returns the overlay networks that this host has, `ingress` included.
func (p *Plane) Networks(ctx context.Context) ([]fabric.Info, error) {
	all, err := p.fabric.Networks(ctx)
	ingress := p.directory.Ingress()
	if err != nil || ingress == nil {
		return all, err
	}
	info, ok, err := p.fabric.HostNetwork(ctx, ingress.GetId(), meshDevice)
	if ok {
		all = append(all, info)
	}
	return all, err
}

func nodeNetwork(n fabric.Info) *swarmv1.NodeNetwork {
	out := &swarmv1.NodeNetwork{
		Vni: n.VNI, Mtu: uint32(n.MTU), Underlay: n.Underlay.String(), Port: uint32(n.Port), Netns: n.Pin,
		Received: traffic(n.Received), Sent: traffic(n.Sent),
	}
	for _, l := range n.Local {
		out.TaskIds = append(out.TaskIds, l.TaskID)
	}
	for _, p := range n.Peers {
		out.Peers = append(out.Peers, &swarmv1.NodeNetworkPeer{Addr: p.Host.String(), Endpoints: uint32(p.Endpoints)})
	}
	return out
}

func traffic(t fabric.Traffic) *swarmv1.NetworkTraffic {
	return &swarmv1.NetworkTraffic{Packets: t.Packets, Bytes: t.Bytes, Dropped: t.Dropped}
}

// Conflicts returns the ports published on all nodes at which this host does not answer.
func (p *Plane) Conflicts() []mesh.Conflict { return p.plane.Conflicts() }

// PortConflicts returns Conflicts as the node reports them to the managers.
func (p *Plane) PortConflicts() []*swarmv1.PortConflict { return portConflicts(p.Conflicts()) }

func portConflicts(conflicts []mesh.Conflict) []*swarmv1.PortConflict {
	var out []*swarmv1.PortConflict
	for _, c := range conflicts {
		one := &swarmv1.PortConflict{Port: uint32(c.Published), Protocol: c.Protocol, Reason: c.Err.Error()}
		if c.IP.IsValid() {
			one.Address = c.IP.String()
		}
		switch {
		case c.AddressMissing:
			one.Kind = swarmv1.PortConflict_ELSEWHERE
		case errdefs.IsAlreadyExists(c.Err):
			one.Reason, _, _ = strings.Cut(one.Reason, ": ")
		default:
			one.Kind = swarmv1.PortConflict_UNABLE
		}
		out = append(out, one)
	}
	return out
}

// Self describes the cluster's networks on this host for `swarm doctor`. Room is the greatest MTU
// in bytes that a new network can have on this host.
func (p *Plane) Self(ctx context.Context) (*swarmv1.SurveyedSelf, error) {
	room, err := p.fabric.MaxMTU(ctx)
	if err != nil {
		return nil, err
	}
	out := &swarmv1.SurveyedSelf{Room: uint32(max(room, 0)), PortConflicts: p.PortConflicts()}
	if n := p.directory.Ingress(); n != nil {
		out.Networks = append(out.Networks, &swarmv1.HeldNetwork{Name: n.GetSpec().GetName(), Subnets: subnets(n), Ingress: true})
	}
	all, err := p.fabric.Networks(ctx)
	if err != nil {
		return nil, err
	}
	for _, info := range all {
		if n, ok := p.directory.Network(info.ID); ok {
			out.Networks = append(out.Networks, &swarmv1.HeldNetwork{
				Name: n.GetSpec().GetName(), Subnets: subnets(n), Mtu: uint32(info.MTU),
			})
		}
	}
	return out, nil
}

func subnets(n *swarmv1.Network) []string {
	var out []string
	for _, c := range n.GetIpam().GetConfigs() {
		out = append(out, c.GetSubnet())
	}
	return out
}

// NetworkName returns the name of the network with an ID, or the ID while the managers have not
// sent the network.
func (p *Plane) NetworkName(id string) string {
	n, _ := p.directory.Network(id)
	return cmp.Or(n.GetSpec().GetName(), id)
}

// Traffic returns the counters of the tasks on this host.
func (p *Plane) Traffic(ctx context.Context) []plane.Traffic { return p.plane.Traffic(ctx) }

// BytesOfTasks returns what the tasks on this host received and sent on all their networks, by id.
func (p *Plane) BytesOfTasks(context.Context) map[string]usage.Traffic {
	counts := p.plane.BytesOfTasks()
	out := make(map[string]usage.Traffic, len(counts))
	for id, c := range counts {
		out[id] = usage.Traffic{Received: c[0].Bytes, Sent: c[1].Bytes}
	}
	return out
}

// NameServer returns the counters of this host's name server.
func (p *Plane) NameServer(ctx context.Context) (*swarmv1.ResolverStats, error) {
	return swarmv1.NewResolverClient(p.dnsConn).Stats(ctx, &swarmv1.ResolverStatsRequest{})
}
