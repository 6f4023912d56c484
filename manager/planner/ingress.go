package planner

import (
	"swarm/internal/ipam"
	"swarm/internal/members"
	"swarm/raftstore/table"
)

// planIngress gives every node that has opened a session its addresses on the ingress network, and
// releases the addresses of nodes that were removed. Traffic between nodes for published ports uses
// these addresses.
func (r *run) planIngress() {
	if !r.state.IngressDue() {
		return
	}
	for _, id := range r.state.IngressHolders() {
		if n := r.state.Node(id); n == nil || n.Removed() {
			r.out.reset()
			for _, c := range r.state.Claims(id) {
				r.out.deleteIfUnchanged(table.Claim, c.GetKey(), c.GetMeta())
			}
			r.groups = append(r.groups, r.out.groups("")...)
		}
	}
	if !r.state.HasIngress() {
		return
	}
	for _, n := range r.state.Nodes() {
		// Anyone with a join token can create as many nodes as the network has addresses, so a
		// node gets an address only after a host has opened a session.
		if members.NeverReported(n.State) {
			continue
		}
		addrs, ok := r.draft.FindNodeAddresses(n)
		if !ok {
			// A subnet is full, so the next nodes would find no address there either. planIngress
			// runs again when a node gives an address back.
			return
		}
		r.out.reset()
		for _, a := range addrs {
			r.allocate(a, ipam.OwnerNode+n.ID)
		}
		r.writeCursors()
		r.groups = append(r.groups, r.out.groups("")...)
	}
}
