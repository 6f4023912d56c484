//go:build linux

package survey

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
)

// Range is an address range in which the host has an address, or to which it has a route that is
// not a default route.
type Range struct {
	Prefix netip.Prefix
	// Device is the name of the interface. It is empty for a route without an interface, such as a
	// blackhole route.
	Device string
}

// Ranges returns the ranges of this host, without duplicates. It includes those of swarm's own
// devices.
func Ranges() ([]Range, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	links, err := hostnet.Complete(func() ([]netlink.Link, error) { return h.LinkList() })
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	seen := map[Range]bool{}
	var out []Range
	add := func(n *net.IPNet, link int) {
		p, ok := prefix(n)
		r := Range{Prefix: p, Device: names[link]}
		if ok && !seen[r] {
			seen[r] = true
			out = append(out, r)
		}
	}
	addrs, err := hostnet.Complete(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range addrs {
		add(a.IPNet, a.LinkIndex)
	}
	routes, err := hostnet.Complete(func() ([]netlink.Route, error) { return h.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	for _, r := range routes {
		add(r.Dst, r.LinkIndex)
	}
	return out, nil
}

// prefix converts n. ok is false for a default route, and for loopback, link-local and multicast
// ranges, which no container network uses.
func prefix(n *net.IPNet) (p netip.Prefix, ok bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	ip = ip.Unmap()
	if !ok || ones == 0 || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(ip, ones).Masked(), true
}
