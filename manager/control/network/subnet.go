package network

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
	"swarm/internal/ipam"
	"swarm/internal/spec"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// subnets returns the subnets and gateways of a network. It adds an IPv4 subnet from the cluster's
// address pools if the spec has none, and a unique local IPv6 subnet made from random if the spec
// enables IPv6.
func subnets(v *table.View, sp *swarmv1.NetworkSpec, random [5]byte) (*swarmv1.IPAMOptions, error) {
	out := sp.GetIpam().CloneVT()
	if out == nil {
		out = &swarmv1.IPAMOptions{}
	}
	hasIPv4, hasIPv6 := false, false
	for _, c := range out.GetConfigs() {
		p, err := netip.ParsePrefix(c.GetSubnet())
		if err != nil {
			return nil, err
		}
		if p.Addr().Is4() {
			hasIPv4 = true
		} else {
			hasIPv6 = true
		}
	}
	if !hasIPv4 {
		p, err := fromPool(v)
		if err != nil {
			return nil, err
		}
		out.Configs = slices.Insert(out.Configs, 0, &swarmv1.IPAMConfig{Subnet: p.String()})
	}
	if !hasIPv6 && sp.GetIpv6Enabled() {
		out.Configs = append(out.Configs, &swarmv1.IPAMConfig{Subnet: ipam.ULAPrefix(random).String()})
	}
	plan, err := ipam.ParseSubnets(out)
	if err != nil {
		return nil, err
	}
	for _, c := range out.Configs {
		for _, sub := range plan {
			if c.GetSubnet() == sub.Prefix().String() {
				c.Gateway = sub.Gateway().String()
			}
		}
	}
	return out, nil
}

// fromPool chooses an IPv4 subnet from the cluster's address pools that no other network has, and
// that no node routes elsewhere. If there is no such subnet, it ignores the routes of workers: a
// worker that is misconfigured, or lies, must not prevent the creation of networks. overlaps then
// warns the user.
func fromPool(v *table.View) (netip.Prefix, error) {
	defaults := v.Cluster().GetSpec().GetNetwork()
	var pools, taken []netip.Prefix
	for _, text := range defaults.GetDefaultAddrPool() {
		if p, err := netip.ParsePrefix(text); err == nil {
			pools = append(pools, p)
		}
	}
	if len(pools) == 0 {
		pools = []netip.Prefix{netip.MustParsePrefix(spec.DefaultAddrPool)}
	}
	size := int(defaults.GetSubnetSize())
	if size == 0 {
		size = spec.DefaultSubnetSize
	}
	for n := range v.Networks.All() {
		for _, c := range n.GetIpam().GetConfigs() {
			if p, err := netip.ParsePrefix(c.GetSubnet()); err == nil {
				taken = append(taken, p)
			}
		}
	}
	managers, workers := routed(v)
	taken = append(taken, managers...)
	p, ok := ipam.ChooseSubnet(pools, size, append(slices.Clone(taken), workers...))
	if !ok {
		p, ok = ipam.ChooseSubnet(pools, size, taken)
	}
	if !ok {
		texts := make([]string, len(pools))
		for i, p := range pools {
			texts[i] = p.String()
		}
		return p, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf(
			"no subnet of size /%d is left in the address pool %s: %d networks and the routes of the nodes take all: name one with --subnet, or remove networks with `swarm network prune`",
			size, strings.Join(texts, ", "), v.Networks.Len()))
	}
	return p, nil
}

// routed returns the ranges that managers and workers route elsewhere.
func routed(v *table.View) (managers, workers []netip.Prefix) {
	for st := range v.NodeStates.All() {
		row, _ := v.Nodes.Get(st.GetNodeId())
		for _, text := range st.GetDescription().GetRouted() {
			p, err := netip.ParsePrefix(text)
			switch {
			case err != nil:
			case row.GetSpec().GetRole() == swarmv1.NodeSpec_MANAGER:
				managers = append(managers, p)
			default:
				workers = append(workers, p)
			}
		}
	}
	return managers, workers
}

// overlaps returns a warning for each range that overlaps a subnet of the network. The ranges are
// the subnets of other networks, and the ranges that nodes route elsewhere. The containers on the
// network cannot reach them.
func overlaps(v *table.View, n *swarmv1.Network) (out []string) {
	for _, c := range n.GetIpam().GetConfigs() {
		subnet, err := netip.ParsePrefix(c.GetSubnet())
		if err != nil {
			continue
		}
		for other := range v.Networks.All() {
			for _, o := range other.GetIpam().GetConfigs() {
				if p, err := netip.ParsePrefix(o.GetSubnet()); err == nil && other.GetId() != n.GetId() && p.Overlaps(subnet) {
					out = append(out, fmt.Sprintf("subnet %s overlaps %s of network %s: a task that is on both networks reaches those addresses on one of them alone; choose another --subnet",
						subnet, p, other.GetSpec().GetName()))
				}
			}
		}
		nodes := map[string][]string{} // names, by the range
		for st := range v.NodeStates.All() {
			for _, text := range st.GetDescription().GetRouted() {
				if p, err := netip.ParsePrefix(text); err == nil && p.Overlaps(subnet) {
					nodes[text] = append(nodes[text], object.NodeName(v, st.GetNodeId()))
				}
			}
		}
		for _, text := range slices.Sorted(maps.Keys(nodes)) {
			who := "node " + slices.Min(nodes[text]) + " routes"
			if more := len(nodes[text]) - 1; more > 0 {
				who = fmt.Sprintf("node %s and %d more route", slices.Min(nodes[text]), more)
			}
			out = append(out, fmt.Sprintf("subnet %s overlaps %s, which %s elsewhere: containers on network %s cannot exchange packets with that range; choose another --subnet",
				subnet, text, who, n.GetSpec().GetName()))
		}
	}
	return out
}

// ulaBits returns the random bits of a unique local IPv6 subnet.
func ulaBits() (out [5]byte) {
	copy(out[:], ident.RandomBytes(len(out)))
	return out
}
