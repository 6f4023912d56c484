package cluster

import (
	"net/netip"
	"slices"

	"swarm/internal/ipam"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Address is a free address in a subnet of a network, which a Draft has found.
type Address struct {
	network *network
	subnet  ipam.Subnet
	addr    netip.Addr
}

// NetworkID returns the id of the address's network.
func (a Address) NetworkID() string { return a.network.id }

// Key returns the key of the claim of the address.
func (a Address) Key() string { return ipam.Key(a.network.id, a.addr) }

// Prefix returns the address with the length of its subnet's prefix: "10.0.1.2/24".
func (a Address) Prefix() string { return a.subnet.WithPrefix(a.addr) }

// addressDraft is the part of a Draft that concerns addresses.
type addressDraft struct {
	found     []Address // the result of the last search
	allocated []Address
	// moved names each cursor that has moved since the last call of MovedCursors, by an address of
	// its network and family. It does not matter by which one.
	moved []Address
	saved []savedCursor
	// exhausted holds the networks whose field of that name the draft has set.
	exhausted []*network
}

// savedCursor is a cursor as it was before the draft.
type savedCursor struct {
	network *network
	family  string
	at      netip.Addr // invalid: the network had no cursor
}

// FindAddresses returns free addresses for one more task of the revision: one in each subnet of
// each of its networks that is not local to a node, in that order. The caller then allocates them.
// The slice is valid until the next search. If an address is missing, problem says why, for the
// user.
func (d *Draft) FindAddresses(rev *Revision) (found []Address, problem string) {
	d.found = d.found[:0]
	if !rev.needsAddress {
		return nil, ""
	}
	for i, use := range rev.Networks {
		if spec.IsLocalNetwork(use.GetNetworkId()) {
			continue
		}
		n := d.state.networks[use.GetNetworkId()]
		if n == nil || n.row == nil {
			return nil, "network " + use.GetNetworkId() + " was removed: remove it from the service, or create it again and add it to the service"
		}
		for _, s := range n.subnets {
			if problem := d.findAddress(n, s, rev.requestedAddrs[i]); problem != "" {
				return nil, problem
			}
		}
	}
	return d.found, ""
}

// findAddress adds an address of one subnet to found: a requested one, or else the next free one.
func (d *Draft) findAddress(n *network, s ipam.Subnet, requested []netip.Addr) (problem string) {
	name := n.row.GetSpec().GetName()
	if i := slices.IndexFunc(requested, s.Prefix().Contains); i >= 0 {
		if n.allocated.Has(requested[i]) {
			return "network " + name + ": requested address " + requested[i].String() + " is in use: request another one"
		}
		d.found = append(d.found, Address{n, s, requested[i]})
		return ""
	}
	if n.exhausted != "" {
		return n.exhausted
	}
	a, ok := s.Next(n.cursor[s.Family()], &n.allocated)
	if !ok {
		n.exhausted = ipam.FullMessage(name, s, n.allocated.CountIn(s))
		d.exhausted = append(d.exhausted, n)
		return n.exhausted
	}
	d.found = append(d.found, Address{n, s, a})
	return ""
}

// FindNodeAddresses returns free addresses on the ingress network for the subnets in which the node
// has none. In every subnet the node gets the same host number if that is free. The slice is valid
// until the next search. ok is false if a subnet has no free address. There must be an ingress
// network.
func (d *Draft) FindNodeAddresses(n *Node) (found []Address, ok bool) {
	d.found = d.found[:0]
	in := d.state.ingress
	held := map[string]netip.Addr{} // by family
	for _, c := range d.state.claims[n.ID] {
		if network, a, ok := ipam.ParseKey(c.GetKey()); ok && network == in.id {
			if s, ok := in.subnets.Containing(a); ok {
				held[s.Family()] = a
			}
		}
	}
	var hostNumber uint64 // of the node's address in the first subnet
	for i, s := range in.subnets {
		a, holds := held[s.Family()]
		if !holds {
			if a, ok = in.freeAddress(s, hostNumber); !ok {
				return nil, false
			}
			d.found = append(d.found, Address{in, s, a})
		}
		if i == 0 {
			hostNumber = s.HostNumber(a)
		}
	}
	return d.found, true
}

// freeAddress returns the address of the subnet with the given host number if that is free, and
// else the next free address. The host number 0 is never free.
func (n *network) freeAddress(s ipam.Subnet, hostNumber uint64) (netip.Addr, bool) {
	if a, ok := s.Host(hostNumber); ok && !n.allocated.Has(a) {
		return a, true
	}
	return s.Next(n.cursor[s.Family()], &n.allocated)
}

// Allocate counts the address as allocated for the rest of the draft, and moves the cursor of its
// network there. The caller writes the claim.
func (d *Draft) Allocate(a Address) {
	a.network.allocated.Add(a.addr)
	d.allocated = append(d.allocated, a)
	family := a.subnet.Family()
	if !slices.ContainsFunc(d.saved, func(c savedCursor) bool { return c.network == a.network && c.family == family }) {
		d.saved = append(d.saved, savedCursor{a.network, family, a.network.cursor[family]})
	}
	a.network.cursor[family] = a.addr
	if !slices.ContainsFunc(d.moved, func(o Address) bool { return o.network == a.network && o.subnet.Family() == family }) {
		d.moved = append(d.moved, a)
	}
}

// MovedCursors returns the rows of the cursors that have moved since its last call. They need no
// precondition, because a wrong cursor does no harm: it only says where the search for a free
// address begins.
func (d *Draft) MovedCursors() []*swarmv1.Claim {
	var rows []*swarmv1.Claim
	for _, a := range d.moved {
		rows = append(rows, &swarmv1.Claim{Key: ipam.CursorKey(a.network.id, a.subnet), Owner: a.network.cursor[a.subnet.Family()].String()})
	}
	d.moved = d.moved[:0]
	return rows
}

// undoAddresses takes back the addresses and cursors of the draft.
func (d *Draft) undoAddresses() {
	for _, a := range d.allocated {
		a.network.allocated.Remove(a.addr)
	}
	for _, c := range d.saved {
		if c.at.IsValid() {
			c.network.cursor[c.family] = c.at
		} else {
			delete(c.network.cursor, c.family)
		}
	}
	for _, n := range d.exhausted {
		n.exhausted = ""
	}
}
