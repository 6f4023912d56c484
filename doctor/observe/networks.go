//go:build linux

package observe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"google.golang.org/grpc"
	"swarm/doctor"
	"swarm/internal/spec"
	"swarm/overlay/bridge"
	"swarm/overlay/mesh"
	"swarm/overlay/survey"
	swarmv1 "swarm/proto/swarm/v1"
)

// The names of this host's devices: those of the bridge network and of the network `ingress`. They
// are the defaults of packages bridge and mesh.
const (
	bridgeDevice = "swarm0"
	meshDevice   = "swmesh"
)

// firewall reads the rules of other programs.
func firewall() doctor.Firewall {
	f, err := survey.ReadFirewall(bridge.Accepts(bridgeDevice), mesh.Accepts(meshDevice))
	out := doctor.Firewall{ForwardDrop: f.ForwardDrop, InputDrop: f.InputDrop, Legacy: f.Legacy, Problem: errorText(err)}
	for _, d := range f.Devices {
		out.Devices = append(out.Devices, doctor.Device(d))
	}
	return out
}

// networks collects the ranges that this host routes, and the networks of the cluster: from its
// daemon those that this host has, and from a manager all.
func networks(ctx context.Context, r Request, self *swarmv1.SurveyedSelf) doctor.Networks {
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
		out.Pools = prefixesIn([]string{spec.DefaultAddrPool}) // the pool of `swarm init`
	}
	out.Problem = errorText(err)
	return out
}

// clusterNetworks adds the networks of the cluster that are not in known, because this host does
// not have them, and the address pools. It asks a manager for both.
func clusterNetworks(ctx context.Context, conn grpc.ClientConnInterface, known map[string]bool, to *doctor.Networks) error {
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

// onHost returns the device by which the host itself is on a network. Only the network `ingress`
// has one.
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

// prefixesIn parses ranges. It omits those that it cannot parse.
func prefixesIn(texts []string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range texts {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}
