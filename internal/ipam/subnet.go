package ipam

import (
	"fmt"
	"math"
	"net/netip"

	swarmv1 "swarm/proto/swarm/v1"
)

// Subnet is one subnet of a network and the part of it from which addresses are given.
type Subnet struct {
	prefix      netip.Prefix
	gateway     netip.Addr
	first, last netip.Addr // of the range, reserved ones included but for the subnet's ends
}

// Taken knows which addresses are held.
type Taken interface {
	// NextFree is the first address that nobody holds, a or one above it.
	NextFree(a netip.Addr) netip.Addr
}

// Parse reads a subnet's configuration. A gateway that is not named is the first address of the subnet.
func Parse(c *swarmv1.IPAMConfig) (Subnet, error) {
	prefix, err := netip.ParsePrefix(c.GetSubnet())
	if err != nil || prefix != prefix.Masked() || prefix.Addr().Is4In6() {
		return Subnet{}, fmt.Errorf("subnet %q is not one", c.GetSubnet())
	}
	if host := prefix.Addr().BitLen() - prefix.Bits(); host < 2 || host > 64 {
		return Subnet{}, fmt.Errorf("subnet %s: its size is out of range", prefix)
	}
	s := Subnet{prefix: prefix, gateway: prefix.Addr().Next(), first: prefix.Addr().Next(), last: end(prefix)}
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
		s.first, s.last = later(s.first, part.Masked().Addr()), earlier(s.last, end(part))
	}
	return s, nil
}

// end is the last address of a prefix.
func end(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func later(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return b
	}
	return a
}

func earlier(a, b netip.Addr) netip.Addr {
	if a.Less(b) {
		return a
	}
	return b
}

func (s Subnet) v4() bool { return s.prefix.Addr().Is4() }

// Prefix is the subnet itself.
func (s Subnet) Prefix() netip.Prefix { return s.prefix }

// Gateway is the address kept for a gateway.
func (s Subnet) Gateway() netip.Addr { return s.gateway }

// Family is 4 or 6.
func (s Subnet) Family() string {
	if s.v4() {
		return "4"
	}
	return "6"
}

// Text is an address of the subnet as rows carry it: "10.0.1.5/24".
func (s Subnet) Text(a netip.Addr) string { return netip.PrefixFrom(a, s.prefix.Bits()).String() }

// Number is the host number of an address of the subnet, that At makes an address of.
func (s Subnet) Number(a netip.Addr) uint64 { return low(a) - low(s.prefix.Addr()) }

// At is the address with a host number. false: a task may not have it, or the subnet is too small for it.
func (s Subnet) At(number uint64) (netip.Addr, bool) {
	b := s.prefix.Addr().As16()
	n := low(s.prefix.Addr()) + number
	for i := range 8 {
		b[8+i] = byte(n >> (56 - 8*i))
	}
	a := netip.AddrFrom16(b)
	if s.v4() {
		a = a.Unmap()
	}
	return a, s.Holds(a)
}

// Holds says whether the address is one of the subnet that a task may have, in or outside of the range.
func (s Subnet) Holds(a netip.Addr) bool {
	return s.prefix.Contains(a) && a != s.prefix.Addr() && a != s.gateway && (!s.v4() || a != end(s.prefix))
}

// Next is the address to give after another, which may be invalid: the first free one above it, or from the start of the
// range. false: there is none.
func (s Subnet) Next(after netip.Addr, taken Taken) (netip.Addr, bool) {
	if !after.IsValid() || after.Less(s.first) || !after.Less(s.last) {
		return s.search(s.first, s.last, taken)
	}
	if a, ok := s.search(after.Next(), s.last, taken); ok {
		return a, true
	}
	return s.search(s.first, after, taken)
}

func (s Subnet) search(from, to netip.Addr, taken Taken) (netip.Addr, bool) {
	if !from.IsValid() || to.Less(from) {
		return netip.Addr{}, false
	}
	a := taken.NextFree(from)
	if a == s.gateway {
		a = taken.NextFree(a.Next())
	}
	// Above the highest address of the family there is no other: a is invalid then.
	return a, a.IsValid() && !to.Less(a)
}

// Total is how many addresses there are to give.
func (s Subnet) Total() uint64 {
	if s.last.Less(s.first) {
		return 0
	}
	n := low(s.last) - low(s.first)
	if s.gateway.Less(s.first) || s.last.Less(s.gateway) {
		if n == math.MaxUint64 {
			return n
		}
		n++
	}
	return n
}

// Counts says whether an address is one of those that Total counts.
func (s Subnet) Counts(a netip.Addr) bool {
	return a.Is4() == s.v4() && !a.Less(s.first) && !s.last.Less(a) && a != s.gateway
}

// low is the lower 64 bits: a subnet has no more, and of IPv4 all.
func low(a netip.Addr) uint64 {
	var n uint64
	b := a.As16()
	for _, x := range b[8:] {
		n = n<<8 | uint64(x)
	}
	return n
}
