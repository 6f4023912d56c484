package control

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"swarm/internal/ipam"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// held is which of a network's addresses are claimed.
type held struct {
	view    *raftstore.View
	network string
}

// NextFree implements ipam.Taken.
func (h held) NextFree(a netip.Addr) netip.Addr {
	for a.IsValid() {
		if _, taken := h.view.Claims.Get(ipam.Key(h.network, a)); !taken {
			break
		}
		a = a.Next()
	}
	return a
}

// used counts the claimed addresses of a subnet.
func (h held) used(s ipam.Subnet) uint64 {
	var n uint64
	for c := range h.view.Claims.Prefix(ipam.KeyPrefix(h.network)) {
		if _, a, ok := ipam.ParseKey(c.GetKey()); ok && s.InRange(a) {
			n++
		}
	}
	return n
}

// cursors is which address this manager gave last: calls at the same time, of which none sees the others' claims, get
// different ones. The replicated cursor is the starting point of whoever leads next.
type cursors struct {
	mu   sync.Mutex
	last map[string]netip.Addr // by the key of the replicated cursor
}

// next gives an address of the subnet and the changes that make it the owner's.
func (c *cursors) next(v *raftstore.View, n *swarmv1.Network, s ipam.Subnet, owner string) (netip.Addr, []*swarmv1.Change, error) {
	key, taken := ipam.CursorKey(n.GetId(), s), held{v, n.GetId()}
	row, _ := v.Claims.Get(key)
	after, _ := netip.ParseAddr(row.GetOwner())
	c.mu.Lock()
	defer c.mu.Unlock()
	if last := c.last[key]; after.Less(last) {
		after = last
	}
	a, ok := s.Next(after, taken)
	if !ok {
		return a, nil, errdefs.ErrResourceExhausted.WithMessage(ipam.FullMessage(n.GetSpec().GetName(), s, taken.used(s)) +
			": remove a task or service from it, or create a network with a larger subnet")
	}
	if c.last == nil {
		c.last = map[string]netip.Addr{}
	}
	c.last[key] = a
	return a, []*swarmv1.Change{
		raftstore.Create(&swarmv1.Claim{Key: ipam.Key(n.GetId(), a), Owner: owner}),
		raftstore.Put(&swarmv1.Claim{Key: key, Owner: a.String()}),
	}, nil
}

// virtualIPs gives a service one address in each family of each of its overlay networks, keeps those that it has, and
// gives back those that it no longer needs. A service that is found by DNS alone has none.
func (s *Server) virtualIPs(v *raftstore.View, service string, old []*swarmv1.VirtualIP, sp *swarmv1.ServiceSpec) ([]*swarmv1.VirtualIP, []*swarmv1.Change, error) {
	var out []*swarmv1.VirtualIP
	var changes []*swarmv1.Change
	for _, n := range vipNetworks(v, sp) {
		plan, err := ipam.ParseSubnets(n.GetIpam())
		if err != nil {
			return nil, nil, err
		}
		for _, sub := range plan {
			if i := slices.IndexFunc(old, func(o *swarmv1.VirtualIP) bool {
				a, err := ipam.ParseAddr(o.GetAddr())
				return err == nil && o.GetNetworkId() == n.GetId() && sub.Prefix().Contains(a)
			}); i >= 0 {
				out = append(out, old[i])
				continue
			}
			a, claim, err := s.cursors.next(v, n, sub, ipam.OwnerService+service)
			if err != nil {
				return nil, nil, err
			}
			out = append(out, &swarmv1.VirtualIP{NetworkId: n.GetId(), Addr: sub.WithPrefix(a)})
			changes = append(changes, claim...)
		}
	}
	for _, o := range old {
		if !slices.Contains(out, o) {
			changes = append(changes, unclaim(v, service, o)...)
		}
	}
	return out, changes, nil
}

func vipNetworks(v *raftstore.View, sp *swarmv1.ServiceSpec) (out []*swarmv1.Network) {
	if sp.GetEndpointSpec().GetMode() != swarmv1.EndpointSpec_VIP {
		return nil
	}
	for _, use := range sp.GetTaskTemplate().GetNetworks() {
		if n, ok := v.Networks.Get(use.GetTarget()); ok {
			out = append(out, n)
		}
	}
	return out
}

func unclaim(v *raftstore.View, service string, ip *swarmv1.VirtualIP) []*swarmv1.Change {
	a, err := ipam.ParseAddr(ip.GetAddr())
	if err != nil {
		return nil
	}
	c, ok := v.Claims.Get(ipam.Key(ip.GetNetworkId(), a))
	if !ok || c.GetOwner() != ipam.OwnerService+service {
		return nil
	}
	return []*swarmv1.Change{raftstore.Delete(c)}
}
