//go:build linux

package hostnet

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses lists the addresses by which another host may reach this one, the network namespace of
// the caller: neither loopback nor IPv6 link-local ones. Those of devices with a default route come
// first, so that a caller who keeps only some keeps these. Addresses of the devices named are left
// out.
func Addresses(without ...string) ([]netip.Addr, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("ask for the host's addresses: %w", err)
	}
	defer h.Close()
	links, err := Complete(func() ([]netlink.Link, error) { return h.LinkList() })
	if err != nil {
		return nil, fmt.Errorf("list the host's interfaces: %w", err)
	}
	addrs, err := Complete(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	away, err := wayOuts(h)
	if err != nil {
		return nil, err
	}
	skip := map[int]bool{}
	for _, l := range links {
		skip[l.Attrs().Index] = slices.Contains(without, l.Attrs().Name)
	}
	// rank is 0 for the addresses of devices with a default route, and 1 for others.
	rank := map[netip.Addr]int{}
	for _, a := range addrs {
		addr, ok := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		reachable := addr.IsGlobalUnicast() || addr.Is4() && addr.IsLinkLocalUnicast()
		switch {
		case !ok || !reachable || skip[a.LinkIndex]:
		case away[a.LinkIndex]:
			rank[addr] = 0
		default:
			if _, known := rank[addr]; !known {
				rank[addr] = 1
			}
		}
	}
	return slices.SortedFunc(maps.Keys(rank), func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(rank[a], rank[b]), a.Compare(b))
	}), nil
}

// wayOuts are the devices with a default route, by index.
func wayOuts(h *netlink.Handle) (map[int]bool, error) {
	out := map[int]bool{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := Complete(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_DST) // no destination: the default route
		})
		if err != nil {
			return nil, fmt.Errorf("list the host's default routes: %w", err)
		}
		for _, r := range routes {
			out[r.LinkIndex] = true
			for _, next := range r.MultiPath {
				out[next.LinkIndex] = true
			}
		}
	}
	return out, nil
}
