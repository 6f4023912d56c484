package ipam

import (
	"cmp"
	"net/netip"
	"slices"
)

// Choose is the lowest subnet of the given size (the length of its prefix) in the pools, in their order, that overlaps
// none of the taken ranges. false: there is none.
func Choose(pools []netip.Prefix, size int, taken []netip.Prefix) (netip.Prefix, bool) {
	taken = slices.Clone(taken)
	slices.SortFunc(taken, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	for _, pool := range pools {
		if pool.Bits() > size || size > pool.Addr().BitLen() {
			continue
		}
		if p, ok := chooseIn(pool.Masked(), size, taken); ok {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// chooseIn walks the pool and the sorted ranges side by side.
func chooseIn(pool netip.Prefix, size int, taken []netip.Prefix) (netip.Prefix, bool) {
	at := pool.Addr()
	for at.IsValid() && pool.Contains(at) {
		candidate := netip.PrefixFrom(at, size)
		i := slices.IndexFunc(taken, candidate.Overlaps)
		if i < 0 {
			return candidate, true
		}
		// Ranges that end below it are not met again.
		at = later(end(candidate), end(taken[i])).Next()
		taken = taken[i:]
	}
	return netip.Prefix{}, false
}

// ULA is a unique local subnet (RFC 4193) of IPv6, of 64 bits: fd, 40 random bits, and the subnet 0.
func ULA(random [5]byte) netip.Prefix {
	b := [16]byte{0: 0xfd}
	copy(b[1:6], random[:])
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}
