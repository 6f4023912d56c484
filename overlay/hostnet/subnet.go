//go:build linux

// Package hostnet reads the network configuration of the host: which address ranges have a route,
// which range is free, and which MTU packets to other hosts have.
//
// It changes nothing, except that AnswerLoopback6 adds a route. It starts no goroutines.
package hostnet

import (
	"fmt"
	"iter"
	"net"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Used returns the ranges in which the host has an address or to which it has a route, without the
// default routes. h is a handle to the namespace of the host.
func Used(h *netlink.Handle) ([]netip.Prefix, error) {
	var used []netip.Prefix
	add := func(n *net.IPNet) {
		if n == nil {
			return
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		ones, _ := n.Mask.Size()
		if ok && ones > 0 {
			used = append(used, netip.PrefixFrom(ip.Unmap(), ones).Masked())
		}
	}
	addrs, err := Complete(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range addrs {
		add(a.IPNet)
	}
	routes, err := Complete(func() ([]netlink.Route, error) { return h.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	for _, r := range routes {
		add(r.Dst)
	}
	return used, nil
}

// Choose returns the first candidate that overlaps none of the used ranges. The error is
// ErrResourceExhausted if there is none.
func Choose(used []netip.Prefix, candidates iter.Seq[netip.Prefix]) (netip.Prefix, error) {
	var first, last netip.Prefix
	for c := range candidates {
		if !first.IsValid() {
			first = c
		}
		last = c
		if _, taken := Conflict(used, c); !taken {
			return c, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("every range from %s to %s overlaps a route of this host: configure a free range: %w",
		first, last, errdefs.ErrResourceExhausted)
}

// Conflict returns the first used range that overlaps p.
func Conflict(used []netip.Prefix, p netip.Prefix) (netip.Prefix, bool) {
	for _, u := range used {
		if u.Overlaps(p) {
			return u, true
		}
	}
	return netip.Prefix{}, false
}

// IPNet converts a prefix to the type that the netlink library uses.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Nth returns the n-th address of an IPv4 range. Address 0 is the network address.
func Nth(p netip.Prefix, n uint32) netip.Addr {
	b := p.Masked().Addr().As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += n
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// MAC derives a locally administered hardware address from an IPv4 address. prefix is its second
// byte. Each calling package uses its own prefix, so that their addresses differ.
func MAC(prefix byte, a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, prefix, b[0], b[1], b[2], b[3]}
}

// AnswerLoopback6 adds a route so that the kernel accepts answers to the host's [::1] from an
// interface. It needs them for redirected connections from [::1]. This does for IPv6 what
// route_localnet does for IPv4. The kernel deletes the route with the interface. The metric
// contains the interface index, so that the routes of several interfaces differ.
func AnswerLoopback6(h *netlink.Handle, index int) error {
	err := h.RouteReplace(&netlink.Route{
		LinkIndex: index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Priority: 5000 + index,
		Dst: &net.IPNet{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)},
	})
	if err != nil {
		return fmt.Errorf("route for answers to [::1]: %w", err)
	}
	return nil
}

// Alias is the first part of the alias of each device that swarm creates in the host's namespace.
const Alias = "swarm"

// Ours reports whether swarm created the device with this alias.
func Ours(alias string) bool { return alias == Alias || strings.HasPrefix(alias, Alias+"; ") }

// WayOutMTU returns the MTU of the interface with the IPv4 default route. Without a default route
// it returns the smallest MTU of the interfaces that are up and have an IPv4 address, at most 1500.
// It ignores interfaces that swarm created.
func WayOutMTU(h *netlink.Handle) (int, error) {
	routes, err := Complete(func() ([]netlink.Route, error) { return h.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return 0, fmt.Errorf("list the host's routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 {
				continue
			}
		}
		if link, err := h.LinkByIndex(r.LinkIndex); err == nil {
			return link.Attrs().MTU, nil
		}
	}
	links, err := Complete(func() ([]netlink.Link, error) { return h.LinkList() })
	if err != nil {
		return 0, fmt.Errorf("list the host's interfaces: %w", err)
	}
	mtu := 1500
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || a.Flags&net.FlagUp == 0 || a.MasterIndex != 0 || Ours(a.Alias) {
			continue
		}
		if addrs, err := Complete(func() ([]netlink.Addr, error) { return h.AddrList(l, netlink.FAMILY_V4) }); err == nil && len(addrs) > 0 {
			mtu = min(mtu, a.MTU)
		}
	}
	return mtu, nil
}
