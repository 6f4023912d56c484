//go:build linux

package resolve

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// Service returns the DNS entries of a service on one network. It returns nil if the service is not
// on the network. r and backends are the objects that the managers sent to this node; backends are
// those of the service. Service is pure.
func Service(networkID string, r *swarmv1.Routing, backends []*swarmv1.Backend) *swarmv1.ResolverService {
	out := &swarmv1.ResolverService{NetworkId: networkID, ServiceId: r.ServiceId, Name: r.Name}
	for _, v := range r.GetEndpoint().GetVirtualIps() {
		if v.NetworkId == networkID {
			out.VirtualIps = append(out.VirtualIps, withoutPrefixLength(v.Addr))
		}
	}
	onNetwork := len(out.VirtualIps) > 0
	for _, n := range r.Networks {
		if n.NetworkId == networkID {
			onNetwork, out.Aliases = true, append(out.Aliases, n.Aliases...)
		}
	}
	for _, b := range backends {
		for _, n := range b.Networks {
			if n.NetworkId != networkID {
				continue
			}
			out.Tasks = append(out.Tasks, resolverTask(r.Name, b, n))
			// A running task may still have aliases of an earlier version of the spec.
			out.Aliases = append(out.Aliases, n.Aliases...)
		}
	}
	if !onNetwork && len(out.Tasks) == 0 {
		return nil
	}
	slices.SortFunc(out.Tasks, func(a, b *swarmv1.ResolverTask) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(out.Aliases)
	out.Aliases = slices.Compact(out.Aliases)
	for _, p := range r.GetEndpoint().GetPorts() {
		out.Ports = append(out.Ports, &swarmv1.ResolverPort{Name: p.Name, Protocol: strings.ToLower(p.Protocol.String()), Port: p.TargetPort})
	}
	return out
}

// shortID is the number of characters of a task's ID that are its container's hostname, unless the
// service sets a hostname.
const shortID = 12

func resolverTask(service string, b *swarmv1.Backend, n *swarmv1.NetworkAttachment) *swarmv1.ResolverTask {
	suffix := b.NodeId
	if b.Slot > 0 {
		suffix = fmt.Sprint(b.Slot)
	}
	t := &swarmv1.ResolverTask{Name: service + "." + suffix + "." + b.TaskId, Slot: b.Slot, Ready: b.Ready, Hostname: b.Hostname}
	if len(b.TaskId) >= shortID {
		t.Aliases = []string{b.TaskId[:shortID]}
	}
	for _, a := range n.Addresses {
		t.Addresses = append(t.Addresses, withoutPrefixLength(a))
	}
	return t
}

// withoutPrefixLength returns the address of a prefix such as 10.0.1.3/24.
func withoutPrefixLength(a string) string {
	if p, err := netip.ParsePrefix(a); err == nil {
		return p.Addr().String()
	}
	return a
}
