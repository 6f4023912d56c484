package planner

import (
	"net/netip"
	"slices"

	"swarm/internal/ipam"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// A task's addresses are claimed in the group that places the task. They are released after the
// task has ended. The row of an ended task still shows them, although another task may hold them by
// then. A task on a node that is down keeps its addresses, because it may still run.

// network is one network: its subnets, the allocated addresses, and the addresses allocated last.
type network struct {
	id        string
	row       *swarmv1.Network // nil: deleted, or not arrived yet
	subnets   ipam.Subnets
	allocated ipam.Set
	cursor    map[string]netip.Addr // the address allocated last, by family
	// exhausted is why the current plan finds no free address; nil: it has not found that. It holds
	// for the whole plan, because addresses become free only by a commit.
	exhausted *explanation
}

// network returns the entry of a network, and adds one if there is none.
func (p *State) network(id string) *network {
	n := p.networks[id]
	if n == nil {
		n = &network{id: id, cursor: map[string]netip.Addr{}}
		p.networks[id] = n
	}
	return n
}

// forgetNetwork drops the entry of a network that no row names any more.
func (p *State) forgetNetwork(n *network) {
	if n.row == nil && len(n.cursor) == 0 && n.allocated.Len() == 0 {
		delete(p.networks, n.id)
	}
}

// foldNetwork applies the change of a network row.
func (p *State) foldNetwork(row *swarmv1.Network, deleted bool) {
	n := p.network(row.GetId())
	n.row, n.subnets = nil, nil
	if !deleted {
		// The control API stores valid subnets only. A network with invalid ones has no addresses.
		n.subnets, _ = ipam.ParseSubnets(row.GetIpam())
		n.row = row
	}
	if row.GetSpec().GetIngress() {
		p.ingress, p.ingressDirty = n, true
		if deleted {
			p.ingress = nil
		}
	}
	p.retryWaiting = true // tasks may have waited for the network
	p.forgetNetwork(n)
}

// foldAddressClaim applies the change of an address claim.
func (p *State) foldAddressClaim(c *swarmv1.Claim, id string, a netip.Addr, deleted bool) {
	n := p.network(id)
	node, ofNode := ipam.NodeOwner(c.GetOwner())
	if deleted {
		n.allocated.Remove(a)
		p.retryWaiting = true
		p.forgetNetwork(n)
	} else {
		n.allocated.Add(a)
	}
	if !ofNode {
		return
	}
	p.ingressDirty = true
	if deleted {
		if p.ingressClaims[node]--; p.ingressClaims[node] == 0 {
			delete(p.ingressClaims, node)
		}
	} else {
		p.ingressClaims[node]++
	}
}

// foldCursor applies the change of a cursor: a claim whose owner is the last allocated address.
func (p *State) foldCursor(c *swarmv1.Claim, id, family string, deleted bool) {
	n := p.network(id)
	a, err := netip.ParseAddr(c.GetOwner())
	if deleted || err != nil {
		delete(n.cursor, family)
		p.forgetNetwork(n)
		return
	}
	n.cursor[family] = a
}

// addNetworks sets the networks of the revision, and the addresses requested on them.
func (r *revision) addNetworks(list []*swarmv1.NetworkAttachmentConfig) {
	for _, use := range list {
		r.networks = append(r.networks, &swarmv1.NetworkAttachment{NetworkId: use.GetTarget(), Aliases: use.GetAliases(), DriverOpts: use.GetDriverOpts()})
		r.needsAddress = r.needsAddress || !spec.LocalNetwork(use.GetTarget())
		var requested []netip.Addr
		for _, text := range use.GetAddresses() {
			if a, err := ipam.ParseAddr(text); err == nil {
				requested = append(requested, a)
			}
		}
		r.requestedAddrs = append(r.requestedAddrs, requested)
	}
}

// networkAddr is an address in a subnet of a network.
type networkAddr struct {
	network *network
	subnet  ipam.Subnet
	addr    netip.Addr
}

// pickAddresses sets candidates to addresses for one more task of the revision. assignAddresses
// then allocates them. It returns an explanation if an address is missing.
func (r *run) pickAddresses(rev *revision) *explanation {
	r.candidates = r.candidates[:0]
	if !rev.needsAddress {
		return nil
	}
	for i, use := range rev.networks {
		if spec.LocalNetwork(use.GetNetworkId()) {
			continue
		}
		n := r.state.networks[use.GetNetworkId()]
		if n == nil || n.row == nil {
			return noAddress("network " + use.GetNetworkId() + " was removed: remove it from the service, or create it again and add it to the service")
		}
		for _, s := range n.subnets {
			if v := r.pickAddress(n, s, rev.requestedAddrs[i]); v != nil {
				return v
			}
		}
	}
	return nil
}

// pickAddress adds an address of one subnet to candidates: a requested one, or else the next
// free one.
func (r *run) pickAddress(n *network, s ipam.Subnet, requested []netip.Addr) *explanation {
	name := n.row.GetSpec().GetName()
	if i := slices.IndexFunc(requested, s.Prefix().Contains); i >= 0 {
		if n.allocated.Has(requested[i]) {
			return noAddress("network " + name + ": requested address " + requested[i].String() + " is in use: request another one")
		}
		r.candidates = append(r.candidates, networkAddr{n, s, requested[i]})
		return nil
	}
	if n.exhausted != nil {
		return n.exhausted
	}
	a, ok := s.Next(n.cursor[s.Family()], &n.allocated)
	if !ok {
		n.exhausted = noAddress(ipam.FullMessage(name, s, n.allocated.CountIn(s)))
		r.exhausted = append(r.exhausted, n)
		return n.exhausted
	}
	r.candidates = append(r.candidates, networkAddr{n, s, a})
	return nil
}

// noAddress returns the explanation of a task that waits for an address.
func noAddress(why string) *explanation {
	return &explanation{err: why, unplaced: &swarmv1.Unplaced{Refusals: []*swarmv1.Refusal{{Filter: "address", Reason: why}}}}
}

// assignAddresses allocates the candidates to the task with the given id, and returns the task's
// network attachments.
func (r *run) assignAddresses(rev *revision, id string) []*swarmv1.NetworkAttachment {
	if len(r.candidates) == 0 {
		return rev.networks
	}
	out := make([]*swarmv1.NetworkAttachment, len(rev.networks))
	remaining := r.candidates
	for i, use := range rev.networks {
		out[i] = use
		if len(remaining) == 0 || remaining[0].network.id != use.GetNetworkId() {
			continue
		}
		out[i] = &swarmv1.NetworkAttachment{NetworkId: use.GetNetworkId(), Aliases: use.GetAliases(), DriverOpts: use.GetDriverOpts()}
		for len(remaining) > 0 && remaining[0].network.id == use.GetNetworkId() {
			out[i].Addresses = append(out[i].Addresses, remaining[0].subnet.WithPrefix(remaining[0].addr))
			r.allocate(remaining[0], ipam.OwnerTask+id)
			remaining = remaining[1:]
		}
	}
	return out
}

// allocate claims an address for an owner. For the rest of the plan it counts as allocated.
func (r *run) allocate(s networkAddr, owner string) {
	s.network.allocated.Add(s.addr)
	r.allocated = append(r.allocated, s)
	r.out.claim(ipam.Key(s.network.id, s.addr), owner)
	r.advanceCursor(s)
}

// advanceCursor moves the cursor of the network to the address.
func (r *run) advanceCursor(s networkAddr) {
	family := s.subnet.Family()
	i := slices.IndexFunc(r.savedCursors, func(o networkAddr) bool { return o.network == s.network && o.subnet.Family() == family })
	if i < 0 {
		// undoAddresses needs the cursor as it was before the plan
		r.savedCursors = append(r.savedCursors, networkAddr{s.network, s.subnet, s.network.cursor[family]})
	}
	s.network.cursor[family] = s.addr
	if !slices.ContainsFunc(r.changedCursors, func(o networkAddr) bool { return o.network == s.network && o.subnet.Family() == family }) {
		r.changedCursors = append(r.changedCursors, s)
	}
}

// writeCursors writes the cursors that moved for the service's addresses. Their writes have no
// precondition, because a wrong cursor does no harm: it says only where the search for a free
// address begins.
func (r *run) writeCursors() {
	r.out.atom = len(r.views) + 1 + len(r.newTasks)
	for _, s := range r.changedCursors {
		r.out.put(&swarmv1.Claim{Key: ipam.CursorKey(s.network.id, s.subnet), Owner: s.network.cursor[s.subnet.Family()].String()})
	}
	r.changedCursors = r.changedCursors[:0]
}

// undoAddresses takes back the addresses and cursors of this plan, so that the state matches the
// store again.
func (r *run) undoAddresses() {
	for _, s := range r.allocated {
		s.network.allocated.Remove(s.addr)
	}
	for _, s := range r.savedCursors {
		if s.addr.IsValid() {
			s.network.cursor[s.subnet.Family()] = s.addr
		} else {
			delete(s.network.cursor, s.subnet.Family())
		}
	}
	for _, n := range r.exhausted {
		n.exhausted = nil
	}
}
