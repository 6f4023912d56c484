package planner

import (
	"maps"
	"net/netip"
	"slices"

	"swarm/internal/ipam"
	"swarm/internal/members"
	swarmv1 "swarm/proto/swarm/v1"
)

// mesh gives every node that has reported its addresses on network ingress, and takes back those of nodes that were removed. What goes from
// node to node on behalf of published ports carries them. A node's IPv6 address has the host number of the other.
func (r *run) mesh() {
	if !r.p.meshNow {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(r.p.meshed)) {
		if n := r.p.nodes[id]; n == nil || n.gone() {
			r.out.reset()
			for _, c := range r.p.claims[id] {
				r.out.delete(tableClaim, c.GetKey(), c.GetMeta())
			}
			r.groups = append(r.groups, r.out.groups("")...)
		}
	}
	if r.p.ingress == nil {
		return
	}
	for _, n := range r.p.order {
		if members.NeverReported(n.state) { // Whoever knows a join token makes as many as the network has addresses.
			continue
		}
		r.out.reset()
		r.moved = r.moved[:0]
		if !r.enmesh(n) {
			return // no address is left
		}
		for _, s := range r.moved {
			r.out.put(&swarmv1.Claim{Key: ipam.CursorKey(s.network.id, s.subnet), Owner: s.addr.String()})
		}
		r.groups = append(r.groups, r.out.groups("")...)
	}
}

// enmesh gives the node what it lacks.
func (r *run) enmesh(n *node) bool {
	in := r.p.ingress
	has := map[string]netip.Addr{}
	for _, c := range r.p.claims[n.id] {
		if network, a, ok := ipam.ParseKey(c.GetKey()); ok && network == in.id {
			if s, ok := in.plan.Of(a); ok {
				has[s.Family()] = a
			}
		}
	}
	var number uint64
	for i, s := range in.plan {
		a, ok := has[s.Family()]
		if !ok {
			if a, ok = s.At(number); i == 0 || !ok || in.taken.Has(a) {
				if a, ok = s.Next(in.cursor[s.Family()], &in.taken); !ok {
					return false
				}
			}
			r.give(spot{in, s, a}, ipam.OwnerNode+n.id)
		}
		if i == 0 {
			number = s.Number(a)
		}
	}
	return true
}
