package planner

import (
	"maps"
	"net/netip"
	"slices"

	"swarm/internal/ipam"
	"swarm/internal/members"
	swarmv1 "swarm/proto/swarm/v1"
)

// planIngress gives every node that has opened a session its addresses on the ingress network, and
// releases the addresses of nodes that were removed. Traffic between nodes for published ports uses
// these addresses. In every subnet the node gets the same host number if that is free.
func (r *run) planIngress() {
	if !r.state.ingressDue {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(r.state.ingressClaims)) {
		if n := r.state.nodes[id]; n == nil || n.removed() {
			r.out.reset()
			for _, c := range r.state.claims[id] {
				r.out.delete(tableClaim, c.GetKey(), c.GetMeta())
			}
			r.groups = append(r.groups, r.out.groups("")...)
		}
	}
	if r.state.ingress == nil {
		return
	}
	for _, n := range r.state.nodeOrder {
		// Anyone with a join token can create as many nodes as the network has addresses, so a
		// node gets an address only after a host has opened a session.
		if members.NeverReported(n.state) {
			continue
		}
		r.out.reset()
		r.changedCursors = r.changedCursors[:0]
		if !r.completeNodeAddresses(n) {
			return // no address is free
		}
		for _, s := range r.changedCursors {
			r.out.put(&swarmv1.Claim{Key: ipam.CursorKey(s.network.id, s.subnet), Owner: s.addr.String()})
		}
		r.groups = append(r.groups, r.out.groups("")...)
	}
}

// completeNodeAddresses allocates the ingress addresses that the node lacks. It returns false if a
// subnet has no free address.
func (r *run) completeNodeAddresses(n *node) bool {
	in := r.state.ingress
	has := map[string]netip.Addr{}
	for _, c := range r.state.claims[n.id] {
		if network, a, ok := ipam.ParseKey(c.GetKey()); ok && network == in.id {
			if s, ok := in.subnets.Containing(a); ok {
				has[s.Family()] = a
			}
		}
	}
	var number uint64
	for i, s := range in.subnets {
		a, ok := has[s.Family()]
		if !ok {
			if a, ok = s.Host(number); i == 0 || !ok || in.allocated.Has(a) {
				if a, ok = s.Next(in.cursor[s.Family()], &in.allocated); !ok {
					return false
				}
			}
			r.allocate(networkAddr{in, s, a}, ipam.OwnerNode+n.id)
		}
		if i == 0 {
			number = s.HostNumber(a)
		}
	}
	return true
}
