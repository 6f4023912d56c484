package service

import (
	"slices"

	"swarm/internal/ipam"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

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
			a, claim, err := s.addresses.Next(v, n, sub, ipam.OwnerService+service)
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
