package service

import (
	"slices"

	"swarm/internal/ipam"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// virtualIPs returns the virtual IPs of a service, one in each subnet of each of its overlay
// networks, and the changes of claims. old are the virtual IPs that the service has: it keeps those
// that it still needs. A service with endpoint mode dnsrr has no virtual IPs.
func (s *Server) virtualIPs(v *table.View, service string, old []*swarmv1.VirtualIP, sp *swarmv1.ServiceSpec) ([]*swarmv1.VirtualIP, []*swarmv1.Change, error) {
	var out []*swarmv1.VirtualIP
	var changes []*swarmv1.Change
	for _, n := range vipNetworks(v, sp) {
		plan, err := ipam.ParseSubnets(n.GetIpam())
		if err != nil {
			return nil, nil, err
		}
		for _, sub := range plan {
			has := slices.IndexFunc(old, func(o *swarmv1.VirtualIP) bool {
				a, err := ipam.ParseAddr(o.GetAddr())
				return err == nil && o.GetNetworkId() == n.GetId() && sub.Prefix().Contains(a)
			})
			if has >= 0 {
				out = append(out, old[has])
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

// vipNetworks returns the overlay networks on which a service has virtual IPs.
func vipNetworks(v *table.View, sp *swarmv1.ServiceSpec) (out []*swarmv1.Network) {
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

// unclaim returns the change that deletes the claim of a virtual IP, if the service has it.
func unclaim(v *table.View, service string, ip *swarmv1.VirtualIP) []*swarmv1.Change {
	a, err := ipam.ParseAddr(ip.GetAddr())
	if err != nil {
		return nil
	}
	c, ok := v.Claims.Get(ipam.Key(ip.GetNetworkId(), a))
	if !ok || c.GetOwner() != ipam.OwnerService+service {
		return nil
	}
	return []*swarmv1.Change{table.Delete(c)}
}
