//go:build linux

package hostnet

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// Routed returns the sorted ranges to which the network namespace of the caller has a route other
// than the default route. A network of the cluster must not overlap them. Routed ignores the routes
// of the devices in without.
func Routed(without ...string) ([]netip.Prefix, error) {
	h, err := netlink.NewHandle()
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	var out []netip.Prefix
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := Complete(func() ([]netlink.Route, error) { return h.RouteList(nil, family) })
		if err != nil {
			return nil, fmt.Errorf("list the host's routes: %w", err)
		}
		for _, r := range routes {
			if link, err := h.LinkByIndex(r.LinkIndex); err == nil && slices.Contains(without, link.Attrs().Name) {
				continue
			}
			if r.Dst == nil {
				continue
			}
			ip, ok := netip.AddrFromSlice(r.Dst.IP)
			if ones, _ := r.Dst.Mask.Size(); ok && ones > 0 {
				out = append(out, netip.PrefixFrom(ip.Unmap(), ones).Masked())
			}
		}
	}
	return Widest(out), nil
}

// Widest sorts ranges. It omits a range that is inside of another one, and loopback, link-local and
// multicast ranges, which no network of the cluster can have.
func Widest(list []netip.Prefix) []netip.Prefix {
	list = slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool {
		a := p.Addr()
		return a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast()
	})
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var out []netip.Prefix
	for _, p := range list {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}
