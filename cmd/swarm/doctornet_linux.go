package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"swarm/cli/command"
	"swarm/cli/system"
	"swarm/doctor"
	"swarm/internal/spec"
	"swarm/overlay/bridge"
	"swarm/overlay/mesh"
	"swarm/overlay/survey"
	swarmv1 "swarm/proto/swarm/v1"
)

// bridgeDevice is the node's own network of containers.
const bridgeDevice = "swarm0"

func firewall() doctor.Firewall {
	f, err := survey.ReadFirewall(bridge.Accepts(bridgeDevice), mesh.Accepts(meshDevice))
	out := doctor.Firewall{ForwardDrop: f.ForwardDrop, InputDrop: f.InputDrop, Legacy: f.Legacy, Problem: errorText(err)}
	for _, d := range f.Devices {
		out.Devices = append(out.Devices, doctor.Device(d))
	}
	return out
}

// networks compares what this host leads to with what is said of networks: by its daemon of those that it has, by a manager
// of all.
func networks(ctx context.Context, r system.DoctorRequest, self *swarmv1.SurveyedSelf) doctor.Networks {
	out := doctor.Networks{Room: int(self.GetRoom())}
	ranges, err := survey.Ranges()
	own := doctor.Network{Name: "bridge", OnHost: bridgeDevice}
	for _, r := range ranges {
		out.Ranges = append(out.Ranges, doctor.Range(r))
		if r.Device == bridgeDevice {
			own.Subnets = append(own.Subnets, r.Prefix)
		}
	}
	out.Networks = append(out.Networks, own)
	known := map[string]bool{}
	for _, n := range self.GetNetworks() {
		known[n.GetName()] = true
		out.Networks = append(out.Networks, doctor.Network{
			Name: n.GetName(), Subnets: prefixesIn(n.GetSubnets()), MTU: int(n.GetMtu()), OnHost: onHost(n.GetIngress()),
		})
	}
	for _, c := range self.GetPortConflicts() {
		switch c.GetKind() {
		case swarmv1.PortConflict_PROGRAM:
			out.Held = append(out.Held, c.GetReason())
		case swarmv1.PortConflict_UNABLE:
			out.Unable = append(out.Unable, fmt.Sprintf("port %d/%s: %s", c.GetPort(), c.GetProtocol(), c.GetReason()))
		}
	}
	if e := self.GetError(); e != "" {
		err = errors.Join(err, errors.New(e))
	}
	switch {
	case r.Info.GetControlAvailable():
		err = errors.Join(err, clusterNetworks(ctx, r.Conn, known, &out))
	case r.Info.GetLocalNodeState() != "active":
		out.Pools = prefixesIn([]string{spec.DefaultAddrPool}) // what `swarm init` takes
	}
	out.Problem = errorText(err)
	return out
}

// clusterNetworks adds what a manager knows: networks that this host has no task on, and the pools.
func clusterNetworks(ctx context.Context, conn command.Conn, known map[string]bool, to *doctor.Networks) error {
	control := swarmv1.NewControlClient(conn)
	cluster, err := control.GetCluster(ctx, &swarmv1.GetRequest{})
	if err != nil {
		return err
	}
	to.Pools = prefixesIn(cluster.GetSpec().GetNetwork().GetDefaultAddrPool())
	all, err := control.ListNetworks(ctx, &swarmv1.ListRequest{})
	if err != nil {
		return err
	}
	for _, info := range all.GetNetworks() {
		n := info.GetNetwork()
		if known[n.GetSpec().GetName()] {
			continue
		}
		to.Networks = append(to.Networks, doctor.Network{
			Name: n.GetSpec().GetName(), Subnets: prefixesIn(subnets(n)), OnHost: onHost(n.GetSpec().GetIngress()),
		})
	}
	return nil
}

// onHost is the device by which the host itself is on network ingress.
func onHost(ingress bool) string {
	if ingress {
		return meshDevice
	}
	return ""
}

func subnets(n *swarmv1.Network) []string {
	var out []string
	for _, c := range n.GetIpam().GetConfigs() {
		out = append(out, c.GetSubnet())
	}
	return out
}

func prefixesIn(texts []string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}
