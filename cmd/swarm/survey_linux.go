package main

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/overlay/fabric"
	swarmv1 "swarm/proto/swarm/v1"
)

// held is what this host's kernel has of a network.
func (o *overlay) held(ctx context.Context, id string) (*swarmv1.NodeNetwork, error) {
	all, err := o.networks(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range all {
		if n.ID == id {
			return heldNetwork(n), nil
		}
	}
	return &swarmv1.NodeNetwork{Absent: true}, nil
}

// networks are those that this host has, ingress among them.
func (o *overlay) networks(ctx context.Context) ([]fabric.Info, error) {
	all, err := o.fabric.Networks(ctx)
	ingress := o.directory.Ingress()
	if err != nil || ingress == nil {
		return all, err
	}
	info, ok, err := o.fabric.HostNetwork(ctx, ingress.GetId(), meshDevice)
	if ok {
		all = append(all, info)
	}
	return all, err
}

func heldNetwork(n fabric.Info) *swarmv1.NodeNetwork {
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

// portConflicts are the ports published on all nodes that this host does not answer at.
func (o *overlay) portConflicts() []*swarmv1.PortConflict {
	var out []*swarmv1.PortConflict
	for _, c := range o.Conflicts() {
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

// self is what this node has of networks; nothing with a simulated runtime.
func (m *workerMember) self(ctx context.Context) (*swarmv1.SurveyedSelf, error) {
	if m.overlay == nil {
		return &swarmv1.SurveyedSelf{}, nil
	}
	return m.overlay.self(ctx)
}

func (o *overlay) self(ctx context.Context) (*swarmv1.SurveyedSelf, error) {
	room, err := o.fabric.MaxMTU()
	if err != nil {
		return nil, err
	}
	out := &swarmv1.SurveyedSelf{Room: uint32(max(room, 0)), PortConflicts: o.portConflicts()}
	if n := o.directory.Ingress(); n != nil {
		out.Networks = append(out.Networks, &swarmv1.HeldNetwork{Name: n.GetSpec().GetName(), Subnets: subnets(n), Ingress: true})
	}
	all, err := o.fabric.Networks(ctx)
	if err != nil {
		return nil, err
	}
	for _, info := range all {
		if n, ok := o.directory.Network(info.ID); ok {
			out.Networks = append(out.Networks, &swarmv1.HeldNetwork{
				Name: n.GetSpec().GetName(), Subnets: subnets(n), Mtu: uint32(info.MTU),
			})
		}
	}
	return out, nil
}
