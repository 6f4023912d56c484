package transport

import (
	"context"
	"net"
	"net/netip"
)

// DialAddrFrom is DialAddr by one of this host's addresses, if the node at addr can be reached from there: a manager tries
// the ways to that address of a host that joins from which the host calls, and to no other. Otherwise the kernel chooses.
func (d *Dialer) DialAddrFrom(source netip.Addr, addr string) *Conn {
	c := d.DialAddr(addr)
	c.source = source
	return c
}

// dialFrom is dialTCP, first by an address of this host if one is given.
func dialFrom(ctx context.Context, source netip.Addr, addr string) (net.Conn, error) {
	if source.IsValid() {
		d := net.Dialer{Timeout: dialTimeout, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0)), KeepAliveConfig: keepAlive}
		if conn, err := d.DialContext(ctx, "tcp", addr); err == nil {
			return conn, nil
		}
	}
	return dialTCP(ctx, addr)
}
