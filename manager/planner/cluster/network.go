package cluster

import (
	"net/netip"

	"swarm/internal/ipam"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// A task's addresses are claimed in the group that places the task, and released after the task has
// ended. The row of an ended task still shows them, although another task may hold them now. A task
// on a node that is down keeps its addresses, because it may still run.

// network is one network: its subnets, its allocated addresses and its cursors.
type network struct {
	id        string
	row       *swarmv1.Network // nil: deleted, or not arrived yet
	subnets   ipam.Subnets
	allocated ipam.Set
	cursor    map[string]netip.Addr // by family, the address allocated last; the next search begins after it
	// exhausted is the message that a subnet has no free address. It is empty until a search of the
	// current draft has found none. It holds for the rest of the draft, because addresses become
	// free only by a commit.
	exhausted string
}

// ensureNetwork returns the entry of a network, and adds one if there is none.
func (state *State) ensureNetwork(id string) *network {
	n := state.networks[id]
	if n == nil {
		n = &network{id: id, cursor: map[string]netip.Addr{}}
		state.networks[id] = n
	}
	return n
}

// forgetNetwork drops the entry of a network that no row names any more.
func (state *State) forgetNetwork(n *network) {
	if n.row == nil && len(n.cursor) == 0 && n.allocated.Len() == 0 {
		delete(state.networks, n.id)
	}
}

// foldNetwork applies the change of a network row.
func (state *State) foldNetwork(row *swarmv1.Network, deleted bool) {
	n := state.ensureNetwork(row.GetId())
	n.row, n.subnets = nil, nil
	if !deleted {
		// The control API stores valid subnets only. A network with invalid ones has no addresses.
		n.subnets, _ = ipam.ParseSubnets(row.GetIpam())
		n.row = row
	}
	if row.GetSpec().GetIngress() {
		state.ingress, state.ingressDirty = n, true
		if deleted {
			state.ingress = nil
		}
	}
	state.retryWaiting = true // tasks may have waited for the network
	state.forgetNetwork(n)
}

// foldAddressClaim applies the change of an address claim.
func (state *State) foldAddressClaim(c *swarmv1.Claim, id string, a netip.Addr, deleted bool) {
	n := state.ensureNetwork(id)
	node, ofNode := ipam.NodeOwner(c.GetOwner())
	if deleted {
		n.allocated.Remove(a)
		state.retryWaiting = true
		state.forgetNetwork(n)
	} else {
		n.allocated.Add(a)
	}
	if !ofNode {
		return
	}
	state.ingressDirty = true
	if deleted {
		state.ingressClaims[node]--
		if state.ingressClaims[node] == 0 {
			delete(state.ingressClaims, node)
		}
	} else {
		state.ingressClaims[node]++
	}
}

// foldCursor applies the change of a cursor: a claim whose owner is the last allocated address.
func (state *State) foldCursor(c *swarmv1.Claim, id, family string, deleted bool) {
	n := state.ensureNetwork(id)
	a, err := netip.ParseAddr(c.GetOwner())
	if deleted || err != nil {
		delete(n.cursor, family)
		state.forgetNetwork(n)
		return
	}
	n.cursor[family] = a
}

// addNetworks sets the networks of the revision, and the addresses requested on them.
func (r *Revision) addNetworks(list []*swarmv1.NetworkAttachmentConfig) {
	for _, use := range list {
		r.Networks = append(r.Networks, &swarmv1.NetworkAttachment{NetworkId: use.GetTarget(), Aliases: use.GetAliases(), DriverOpts: use.GetDriverOpts()})
		r.needsAddress = r.needsAddress || !spec.IsLocalNetwork(use.GetTarget())
		var requested []netip.Addr
		for _, text := range use.GetAddresses() {
			if a, err := ipam.ParseAddr(text); err == nil {
				requested = append(requested, a)
			}
		}
		r.requestedAddrs = append(r.requestedAddrs, requested)
	}
}
