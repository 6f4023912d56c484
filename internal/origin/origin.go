// Package origin tells callers on the network apart by their addresses, for budgets and for samples of the log. It does no
// I/O. Anybody may call it.
package origin

import (
	"net"
	"net/netip"
)

// ipv6Bits is the size of the smallest network that a customer is given: whoever has one address of it has all of them.
const ipv6Bits = 64

// Of returns the origin of a connection: its IPv4 address, or the /64 network of its IPv6 address. Two callers with the
// same origin share a budget. An address without an IP, such as that of a Unix socket, gives the zero Prefix.
func Of(addr net.Addr) netip.Prefix { return OfIP(IP(addr)) }

// IP returns the address of a connection's end without a zone, and IPv4 as such. Without an IP it
// is the zero Addr.
func IP(addr net.Addr) netip.Addr {
	var ip netip.Addr
	switch a := addr.(type) {
	case *net.TCPAddr:
		ip = a.AddrPort().Addr()
	case *net.UDPAddr:
		ip = a.AddrPort().Addr()
	case nil:
	default:
		if at, err := netip.ParseAddrPort(addr.String()); err == nil {
			ip = at.Addr()
		}
	}
	return ip.Unmap().WithZone("")
}

// OfIP is Of for an address without a port.
func OfIP(ip netip.Addr) netip.Prefix {
	ip = ip.Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = ipv6Bits
	}
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // the zero Addr
	}
	return prefix
}
