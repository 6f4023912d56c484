package ipam

import (
	"cmp"
	"net/netip"
	"slices"
)

// ChooseSubnet returns the first subnet of the given prefix length that lies in one of the pools
// and overlaps no used range. It tries the pools in order, and each from its lowest address. It
// returns false if there is none.
func ChooseSubnet(pools []netip.Prefix, size int, used []netip.Prefix) (netip.Prefix, bool) {
	used = slices.Clone(used)
	slices.SortFunc(used, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	for _, pool := range pools {
		if pool.Bits() > size || size > pool.Addr().BitLen() {
			continue
		}
		if p, ok := chooseInPool(pool.Masked(), size, used); ok {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// chooseInPool is ChooseSubnet for one pool. used is sorted by address.
func chooseInPool(pool netip.Prefix, size int, used []netip.Prefix) (netip.Prefix, bool) {
	at := pool.Addr()
	for at.IsValid() && pool.Contains(at) {
		candidate := netip.PrefixFrom(at, size)
		i := slices.IndexFunc(used, candidate.Overlaps)
		if i < 0 {
			return candidate, true
		}
		// Ranges that end below the next candidate cannot overlap later candidates.
		at = maxAddr(lastAddr(candidate), lastAddr(used[i])).Next()
		used = used[i:]
	}
	return netip.Prefix{}, false
}

// ULAPrefix returns a unique local IPv6 subnet (RFC 4193) of prefix length 64: fd, 40 random bits,
// and subnet number 0.
func ULAPrefix(random [5]byte) netip.Prefix {
	b := [16]byte{0: 0xfd}
	copy(b[1:6], random[:])
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}
