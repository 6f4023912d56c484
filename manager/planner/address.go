package planner

import (
	"net/netip"
	"slices"

	"swarm/internal/ipam"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Addresses of tasks are claimed in the group that places the task, and freed when the task has ended: what runs no more
// holds none. An ended task's row keeps showing those that it had, which may be another's by then. A task on a node that is
// down keeps its own, since it may still run there.

// network is the addresses of one network: which are taken, and which was given last.
type network struct {
	id     string
	row    *swarmv1.Network // nil: removed, or not seen yet
	plan   ipam.Plan
	taken  ipam.Set
	cursor map[string]netip.Addr // by family
	// full is why the plan that is being made gives no more of them; it gives none back before it is committed.
	full *verdict
}

func (p *Picture) network(id string) *network {
	n := p.networks[id]
	if n == nil {
		n = &network{id: id, cursor: map[string]netip.Addr{}}
		p.networks[id] = n
	}
	return n
}

// forgetNetwork drops the entry of a network that no row names.
func (p *Picture) forgetNetwork(n *network) {
	if n.row == nil && len(n.cursor) == 0 && n.taken.Len() == 0 {
		delete(p.networks, n.id)
	}
}

func (p *Picture) foldNetwork(row *swarmv1.Network, gone bool) {
	n := p.network(row.GetId())
	n.row, n.plan = nil, nil
	if !gone {
		// What the control API has stored is readable. If it were not, the network had no address to give.
		n.plan, _ = ipam.Read(row.GetIpam())
		n.row = row
	}
	if row.GetSpec().GetIngress() {
		p.ingress, p.meshDirty = n, true
		if gone {
			p.ingress = nil
		}
	}
	p.roomier = true // for tasks that waited for it
	p.forgetNetwork(n)
}

// foldAddress takes over the claim of an address.
func (p *Picture) foldAddress(c *swarmv1.Claim, id string, a netip.Addr, gone bool) {
	n := p.network(id)
	node, ofNode := ipam.NodeOwner(c.GetOwner())
	if gone {
		n.taken.Remove(a)
		p.roomier = true
		p.forgetNetwork(n)
	} else {
		n.taken.Add(a)
	}
	if !ofNode {
		return
	}
	p.meshDirty = true
	if gone {
		if p.meshed[node]--; p.meshed[node] == 0 {
			delete(p.meshed, node)
		}
	} else {
		p.meshed[node]++
	}
}

func (p *Picture) foldCursor(c *swarmv1.Claim, id, family string, gone bool) {
	n := p.network(id)
	a, err := netip.ParseAddr(c.GetOwner())
	if gone || err != nil {
		delete(n.cursor, family)
		p.forgetNetwork(n)
		return
	}
	n.cursor[family] = a
}

// attach reads which networks the tasks of a template are on.
func (r *revision) attach(list []*swarmv1.NetworkAttachmentConfig) {
	for _, use := range list {
		r.networks = append(r.networks, &swarmv1.NetworkAttachment{NetworkId: use.GetTarget(), Aliases: use.GetAliases(), DriverOpts: use.GetDriverOpts()})
		r.wired = r.wired || !spec.LocalNetwork(use.GetTarget())
		var asked []netip.Addr
		for _, text := range use.GetAddresses() {
			if a, err := ipam.Addr(text); err == nil {
				asked = append(asked, a)
			}
		}
		r.asked = append(r.asked, asked)
	}
}

// spot is an address that this plan gives.
type spot struct {
	network *network
	subnet  ipam.Subnet
	addr    netip.Addr
}

// pick chooses the addresses of one more task of the revision; they are its own once address is called. It says why there
// are none.
func (r *run) pick(rev *revision) *verdict {
	r.picked = r.picked[:0]
	if !rev.wired {
		return nil
	}
	for i, use := range rev.networks {
		if spec.LocalNetwork(use.GetNetworkId()) {
			continue
		}
		n := r.p.networks[use.GetNetworkId()]
		if n == nil || n.row == nil {
			return unaddressed("network " + use.GetNetworkId() + " was removed: take it off the service, or create it anew and put the service on it")
		}
		for _, s := range n.plan {
			if v := r.pickIn(n, s, rev.asked[i]); v != nil {
				return v
			}
		}
	}
	return nil
}

func (r *run) pickIn(n *network, s ipam.Subnet, asked []netip.Addr) *verdict {
	name := n.row.GetSpec().GetName()
	if i := slices.IndexFunc(asked, s.Prefix().Contains); i >= 0 {
		if n.taken.Has(asked[i]) {
			return unaddressed("network " + name + ": address " + asked[i].String() + ", which is asked for, is in use")
		}
		r.picked = append(r.picked, spot{n, s, asked[i]})
		return nil
	}
	if n.full != nil {
		return n.full
	}
	a, ok := s.Next(n.cursor[s.Family()], &n.taken)
	if !ok {
		n.full = unaddressed(ipam.Full(name, s, n.taken.Used(s)))
		r.filled = append(r.filled, n)
		return n.full
	}
	r.picked = append(r.picked, spot{n, s, a})
	return nil
}

func unaddressed(why string) *verdict {
	return &verdict{err: why, unplaced: &swarmv1.Unplaced{Refusals: []*swarmv1.Refusal{{Filter: "address", Reason: why}}}}
}

// address gives a task what was picked, and returns its attachments.
func (r *run) address(rev *revision, id string) []*swarmv1.NetworkAttachment {
	if len(r.picked) == 0 {
		return rev.networks
	}
	out := make([]*swarmv1.NetworkAttachment, len(rev.networks))
	left := r.picked
	for i, use := range rev.networks {
		out[i] = use
		if len(left) == 0 || left[0].network.id != use.GetNetworkId() {
			continue
		}
		out[i] = &swarmv1.NetworkAttachment{NetworkId: use.GetNetworkId(), Aliases: use.GetAliases(), DriverOpts: use.GetDriverOpts()}
		for len(left) > 0 && left[0].network.id == use.GetNetworkId() {
			out[i].Addresses = append(out[i].Addresses, left[0].subnet.Text(left[0].addr))
			r.give(left[0], ipam.OwnerTask+id)
			left = left[1:]
		}
	}
	return out
}

// give claims an address, and counts it as taken for the rest of the plan.
func (r *run) give(s spot, owner string) {
	s.network.taken.Add(s.addr)
	r.spots = append(r.spots, s)
	r.out.claim(ipam.Key(s.network.id, s.addr), owner)
	r.step(s)
}

// step moves the cursor.
func (r *run) step(s spot) {
	family := s.subnet.Family()
	i := slices.IndexFunc(r.steps, func(o spot) bool { return o.network == s.network && o.subnet.Family() == family })
	if i < 0 {
		// Steps keep where the cursor was, for undo.
		r.steps = append(r.steps, spot{s.network, s.subnet, s.network.cursor[family]})
	}
	s.network.cursor[family] = s.addr
	if !slices.ContainsFunc(r.moved, func(o spot) bool { return o.network == s.network && o.subnet.Family() == family }) {
		r.moved = append(r.moved, s)
	}
}

// cursors writes the cursors that the service's addresses have moved. Nobody depends on them: whatever they say, an
// address is free or it is not.
func (r *run) cursors() {
	r.out.atom = len(r.views) + 1 + len(r.wants)
	for _, s := range r.moved {
		r.out.put(&swarmv1.Claim{Key: ipam.CursorKey(s.network.id, s.subnet), Owner: s.network.cursor[s.subnet.Family()].String()})
	}
	r.moved = r.moved[:0]
}

// unaddress takes back what give and step did, so that the picture is what the store says.
func (r *run) unaddress() {
	for _, s := range r.spots {
		s.network.taken.Remove(s.addr)
	}
	for _, s := range r.steps {
		if s.addr.IsValid() {
			s.network.cursor[s.subnet.Family()] = s.addr
		} else {
			delete(s.network.cursor, s.subnet.Family())
		}
	}
	for _, n := range r.filled {
		n.full = nil
	}
}
