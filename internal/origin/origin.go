// Package origin groups callers on the network by their addresses, for rate limits and for the
// sampling of logs. It does no I/O.
package origin

import (
	"net"
	"net/netip"
)

// ipv6Bits is the prefix length of the smallest IPv6 network that a provider gives to a customer. A
// caller with one address of such a network can usually use all addresses of it.
const ipv6Bits = 64

// Of returns the origin of a connection: its IPv4 address, or the /64 network of its IPv6 address.
// Callers with the same origin share a limit. An address without an IP, such as that of a Unix
// socket, gives the zero Prefix.
func Of(addr net.Addr) netip.Prefix { return OfIP(IP(addr)) }

// IP returns the IP address of the end of a connection, without a zone and with IPv4 unmapped. It
// returns the zero Addr if there is no IP.
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

// OfIP is Of for an IP address.
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
