// Package address allocates the addresses of networks from the claims in the replicated state, and
// counts them. Package internal/ipam computes which address is next; this package knows which ones
// are claimed.
//
// It commits nothing: callers add the changes to their own group. The packages of networks and
// services call it. It starts no goroutine.
package address

import (
	"net/netip"
	"sync"

	"github.com/containerd/errdefs"

	"swarm/internal/ipam"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// claimed is the set of claimed addresses of a network in a view. It implements ipam.Taken.
type claimed struct {
	view    *table.View
	network string // its id
}

// NextFree returns the first address from a on that is not claimed. It returns the zero Addr if
// there is none.
func (c claimed) NextFree(a netip.Addr) netip.Addr {
	for a.IsValid() {
		if _, taken := c.view.Claims.Get(ipam.Key(c.network, a)); !taken {
			break
		}
		a = a.Next()
	}
	return a
}

// count returns how many addresses of the subnet's range are claimed.
func (c claimed) count(s ipam.Subnet) uint64 {
	var n uint64
	for claim := range c.view.Claims.Prefix(ipam.KeyPrefix(c.network)) {
		if _, a, ok := ipam.ParseKey(claim.GetKey()); ok && s.InRange(a) {
			n++
		}
	}
	return n
}

// Allocator allocates the addresses of services. It remembers the address that it allocated last in
// each subnet, so that concurrent calls, which do not see each other's claims, get different
// addresses. The cursors in the replicated state tell an Allocator on another manager where to
// start. The zero value is ready for use. A manager needs one Allocator.
type Allocator struct {
	mu   sync.Mutex            // guards the rest
	last map[string]netip.Addr // by the key of the replicated cursor
}

// Next returns a free address of a subnet, and the changes that claim it for the owner, as in
// ipam.OwnerService. It returns ErrResourceExhausted if the subnet is full.
func (a *Allocator) Next(v *table.View, n *swarmv1.Network, s ipam.Subnet, owner string) (netip.Addr, []*swarmv1.Change, error) {
	key, taken := ipam.CursorKey(n.GetId(), s), claimed{v, n.GetId()}
	row, _ := v.Claims.Get(key)
	after, _ := netip.ParseAddr(row.GetOwner())
	a.mu.Lock()
	defer a.mu.Unlock()
	if last := a.last[key]; after.Less(last) {
		after = last
	}
	addr, ok := s.Next(after, taken)
	if !ok {
		return addr, nil, errdefs.ErrResourceExhausted.WithMessage(ipam.FullMessage(n.GetSpec().GetName(), s, taken.count(s)) +
			": remove a task or service from it, or create a network with a larger subnet")
	}
	if a.last == nil {
		a.last = map[string]netip.Addr{}
	}
	a.last[key] = addr
	return addr, []*swarmv1.Change{
		table.Create(&swarmv1.Claim{Key: ipam.Key(n.GetId(), addr), Owner: owner}),
		table.Put(&swarmv1.Claim{Key: key, Owner: addr.String()}),
	}, nil
}

// Use returns how many addresses of each subnet of a network are claimed. It returns nil if the
// network's subnets are not valid.
func Use(v *table.View, n *swarmv1.Network) (out []*swarmv1.AddressUse) {
	plan, err := ipam.ParseSubnets(n.GetIpam())
	if err != nil {
		return nil
	}
	taken := claimed{v, n.GetId()}
	for _, s := range plan {
		out = append(out, &swarmv1.AddressUse{Subnet: s.Prefix().String(), Used: taken.count(s), Total: s.RangeSize()})
	}
	return out
}

// OfNodes returns the addresses of the nodes on network ingress, with the length of their subnet's
// prefix, by the id of the node.
func OfNodes(v *table.View) map[string][]string {
	out := make(map[string][]string)
	n, ok := v.Networks.ByName(spec.Ingress)
	if !ok {
		return out
	}
	plan, err := ipam.ParseSubnets(n.GetIpam())
	if err != nil {
		return out
	}
	for c := range v.Claims.Prefix(ipam.KeyPrefix(n.GetId())) {
		_, a, ok := ipam.ParseKey(c.GetKey())
		sub, known := plan.Containing(a)
		if ok && known {
			node := ipam.OwnerID(c.GetOwner())
			out[node] = append(out[node], sub.WithPrefix(a))
		}
	}
	return out
}
