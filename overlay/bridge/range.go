//go:build linux

package bridge

import (
	"fmt"
	"iter"
	"net/netip"

	"swarm/overlay/forwarding"
	"swarm/overlay/hostnet"
)

// chooseRange chooses the subnets and the MTU from the routes and interfaces of the host.
func (p *plumbing) chooseRange() error {
	used, err := hostnet.Used(p.h)
	if err != nil {
		return err
	}
	if p.mtu == 0 {
		if p.mtu, err = hostnet.WayOutMTU(p.h); err != nil {
			return err
		}
	}
	if p.subnet, err = chooseSubnet(used, p.subnet, privateRanges()); err != nil {
		return err
	}
	return p.chooseIPv6(netip.Prefix{})
}

// chooseIPv6 chooses the IPv6 subnet: found if it is valid, or else a free one. There is none on a
// host without IPv6.
func (p *plumbing) chooseIPv6(found netip.Prefix) error {
	if !forwarding.HasIPv6(p.hostNS) {
		p.subnet6 = netip.Prefix{}
		return nil
	}
	if found.IsValid() {
		p.subnet6 = found
		return nil
	}
	used, err := hostnet.Used(p.h)
	if err != nil {
		return err
	}
	p.subnet6, err = chooseSubnet(used, p.subnet6, uniqueLocalRanges())
	return err
}

// chooseSubnet returns wish if it is free, or the first free candidate if wish is not valid.
func chooseSubnet(used []netip.Prefix, wish netip.Prefix, candidates iter.Seq[netip.Prefix]) (netip.Prefix, error) {
	if !wish.IsValid() {
		return hostnet.Choose(used, candidates)
	}
	if taken, ok := hostnet.Conflict(used, wish.Masked()); ok {
		return wish, fmt.Errorf("subnet %s overlaps %s, which this host routes: choose another subnet", wish, taken)
	}
	return wish.Masked(), nil
}

// uniqueLocalRanges yields unique local ranges. Their prefix contains "SWARM" in ASCII.
func uniqueLocalRanges() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for n := range 256 {
			if !yield(netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 'S', 'W', 'A', 'R', 'M', 0, byte(n)}), 64)) {
				return
			}
		}
	}
}

// privateRanges yields the default range, and then the private ranges that Docker and clouds seldom
// use.
func privateRanges() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for _, first := range []byte{30, 31, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16} {
			if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{172, first, 0, 0}), 16)) {
				return
			}
		}
		for n := 240; n >= 0; n -= 16 {
			if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(n), 0}), 20)) {
				return
			}
		}
	}
}
