package ipam

import (
	"fmt"
	"math"
	"net/netip"

	swarmv1 "swarm/proto/swarm/v1"
)

// Subnet is one subnet of a network, with the range from which addresses are allocated.
type Subnet struct {
	prefix  netip.Prefix
	gateway netip.Addr
	// First and last addresses of the range. The subnet's own address and the IPv4 broadcast
	// address are never in the range. The gateway may be.
	first, last netip.Addr
}

// FreeFinder finds addresses that are not allocated.
type FreeFinder interface {
	// NextFree returns the lowest free address that is not below a, or the zero Addr if there is
	// none.
	NextFree(a netip.Addr) netip.Addr
}

// ParseSubnet parses the configuration of a subnet. A gateway that is not configured is the first
// address after the subnet's own. The subnet must have between 2 and 64 host bits.
func ParseSubnet(c *swarmv1.IPAMConfig) (Subnet, error) {
	prefix, err := netip.ParsePrefix(c.GetSubnet())
	if err != nil || prefix != prefix.Masked() || prefix.Addr().Is4In6() {
		return Subnet{}, fmt.Errorf("subnet %q is not a valid network prefix", c.GetSubnet())
	}
	if host := prefix.Addr().BitLen() - prefix.Bits(); host < 2 || host > 64 {
		return Subnet{}, fmt.Errorf("subnet %s must have between 2 and 64 host bits", prefix)
	}
	s := Subnet{prefix: prefix, gateway: prefix.Addr().Next(), first: prefix.Addr().Next(), last: lastAddr(prefix)}
	if s.v4() {
		s.last = s.last.Prev()
	}
	if g := c.GetGateway(); g != "" {
		if s.gateway, err = netip.ParseAddr(g); err != nil || !prefix.Contains(s.gateway) {
			return Subnet{}, fmt.Errorf("gateway %q is not inside subnet %s", g, prefix)
		}
	}
	if r := c.GetRange(); r != "" {
		part, err := netip.ParsePrefix(r)
		if err != nil || !prefix.Contains(part.Addr()) || part.Bits() < prefix.Bits() {
			return Subnet{}, fmt.Errorf("range %q is not inside subnet %s", r, prefix)
		}
		s.first, s.last = maxAddr(s.first, part.Masked().Addr()), minAddr(s.last, lastAddr(part))
	}
	return s, nil
}

// lastAddr returns the last address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func maxAddr(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return b
	}
	return a
}

func minAddr(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return a
	}
	return b
}

func (s Subnet) v4() bool { return s.prefix.Addr().Is4() }

// Prefix returns the prefix of the subnet.
func (s Subnet) Prefix() netip.Prefix { return s.prefix }

// Gateway returns the address that is reserved for the gateway.
func (s Subnet) Gateway() netip.Addr { return s.gateway }

// Family returns "4" or "6".
func (s Subnet) Family() string {
	if s.v4() {
		return "4"
	}
	return "6"
}

// WithPrefix returns an address of the subnet with the prefix length, as rows hold it:
// "10.0.1.5/24".
func (s Subnet) WithPrefix(a netip.Addr) string { return netip.PrefixFrom(a, s.prefix.Bits()).String() }

// HostNumber returns the offset of an address from the subnet's own address. Host is the inverse.
func (s Subnet) HostNumber(a netip.Addr) uint64 { return lowBits(a) - lowBits(s.prefix.Addr()) }

// Host returns the address with a host number. It returns false if the address is not Assignable.
func (s Subnet) Host(number uint64) (netip.Addr, bool) {
	b := s.prefix.Addr().As16()
	n := lowBits(s.prefix.Addr()) + number
	for i := range 8 {
		b[8+i] = byte(n >> (56 - 8*i))
	}
	a := netip.AddrFrom16(b)
	if s.v4() {
		a = a.Unmap()
	}
	return a, s.Assignable(a)
}

// Assignable says whether a task may have the address: it lies in the subnet, and is not the
// subnet's own address, the gateway or the IPv4 broadcast address. It need not lie in the range.
func (s Subnet) Assignable(a netip.Addr) bool {
	return s.prefix.Contains(a) && a != s.prefix.Addr() && a != s.gateway && (!s.v4() || a != lastAddr(s.prefix))
}

// Next returns the next address to allocate: the first free address of the range above after, or
// else the first free one from the start of the range. after may be the zero Addr. Next returns
// false if the range has no free address.
func (s Subnet) Next(after netip.Addr, free FreeFinder) (netip.Addr, bool) {
	if !after.IsValid() || after.Less(s.first) || !after.Less(s.last) {
		return s.nextIn(s.first, s.last, free)
	}
	if a, ok := s.nextIn(after.Next(), s.last, free); ok {
		return a, true
	}
	return s.nextIn(s.first, after, free)
}

func (s Subnet) nextIn(from, to netip.Addr, free FreeFinder) (netip.Addr, bool) {
	if !from.IsValid() || to.Less(from) {
		return netip.Addr{}, false
	}
	a := free.NextFree(from)
	if a == s.gateway {
		a = free.NextFree(a.Next())
	}
	// a is invalid if the search went past the highest address of the family.
	return a, a.IsValid() && !to.Less(a)
}

// RangeSize returns the number of addresses in the range that can be allocated.
func (s Subnet) RangeSize() uint64 {
	if s.last.Less(s.first) {
		return 0
	}
	n := lowBits(s.last) - lowBits(s.first)
	if s.gateway.Less(s.first) || s.last.Less(s.gateway) {
		if n == math.MaxUint64 {
			return n
		}
		n++
	}
	return n
}

// InRange says whether the address is one of those that RangeSize counts.
func (s Subnet) InRange(a netip.Addr) bool {
	return a.Is4() == s.v4() && !a.Less(s.first) && !s.last.Less(a) && a != s.gateway
}

// lowBits returns the lower 64 bits of an address. They contain all host bits, because a subnet has
// at most 64.
func lowBits(a netip.Addr) uint64 {
	var n uint64
	b := a.As16()
	for _, x := range b[8:] {
		n = n<<8 | uint64(x)
	}
	return n
}
