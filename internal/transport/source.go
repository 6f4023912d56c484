package transport

import (
	"context"
	"net"
	"net/netip"
)

// DialAddrFrom is like DialAddr but dials from source, which is an address of this host. If that
// fails, or source is not valid, the kernel chooses the source address. A host that joins passes
// the address from which it calls, because the manager tests only the paths to that address.
func (d *Dialer) DialAddrFrom(source netip.Addr, addr string) *Conn {
	c := d.DialAddr(addr)
	c.source = source
	return c
}

// dialFrom is dialTCP from a source address. It falls back to dialTCP if the source is not valid or
// the attempt fails.
func dialFrom(ctx context.Context, source netip.Addr, addr string) (net.Conn, error) {
	if source.IsValid() {
		d := net.Dialer{Timeout: dialTimeout, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0)), KeepAliveConfig: keepAlive}
		if conn, err := d.DialContext(ctx, "tcp", addr); err == nil {
			return conn, nil
		}
	}
	return dialTCP(ctx, addr)
}
