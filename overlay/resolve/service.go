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

// Service builds a service's names on one network from the objects that a node is told of, the service's backends among
// them; nil when it has none there. Pure.
func Service(networkID string, r *swarmv1.Routing, backends []*swarmv1.Backend) *swarmv1.ResolverService {
	out := &swarmv1.ResolverService{NetworkId: networkID, ServiceId: r.ServiceId, Name: r.Name}
	for _, v := range r.GetEndpoint().GetVirtualIps() {
		if v.NetworkId == networkID {
			out.VirtualIps = append(out.VirtualIps, plain(v.Addr))
		}
	}
	on := len(out.VirtualIps) > 0
	for _, n := range r.Networks {
		if n.NetworkId == networkID {
			on, out.Aliases = true, append(out.Aliases, n.Aliases...)
		}
	}
	for _, b := range backends {
		for _, n := range b.Networks {
			if n.NetworkId != networkID {
				continue
			}
			out.Tasks = append(out.Tasks, taskOf(r.Name, b, n))
			// Those of the spec, or of an earlier one while tasks of that run.
			out.Aliases = append(out.Aliases, n.Aliases...)
		}
	}
	if !on && len(out.Tasks) == 0 {
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

// shortID is how much of a task's id is its container's hostname, unless the service sets one.
const shortID = 12

func taskOf(service string, b *swarmv1.Backend, n *swarmv1.NetworkAttachment) *swarmv1.ResolverTask {
	place := b.NodeId
	if b.Slot > 0 {
		place = fmt.Sprint(b.Slot)
	}
	t := &swarmv1.ResolverTask{Name: service + "." + place + "." + b.TaskId, Slot: b.Slot, Ready: b.Ready, Hostname: b.Hostname}
	if len(b.TaskId) >= shortID {
		t.Aliases = []string{b.TaskId[:shortID]}
	}
	for _, a := range n.Addresses {
		t.Addresses = append(t.Addresses, plain(a))
	}
	return t
}

// plain takes the length off an address in prefix notation.
func plain(a string) string {
	if p, err := netip.ParsePrefix(a); err == nil {
		return p.Addr().String()
	}
	return a
}
