//go:build linux

package hostnet

import (
	"net"
	"net/netip"
	"slices"
)

// Addresses lists the addresses of this host, the network namespace of the caller, in order, by which another host can
// reach it: neither loopback nor link-local ones. Those of the devices named are left out.
func Addresses(without ...string) ([]netip.Addr, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, link := range links {
		if slices.Contains(without, link.Name) {
			continue
		}
		addrs, err := link.Addrs()
		if err != nil {
			continue // it went meanwhile
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if addr := p.Addr().Unmap(); err == nil && addr.IsGlobalUnicast() {
				out = append(out, addr)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}
