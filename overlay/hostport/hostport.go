//go:build linux

// Package hostport keeps ports of the host from every other program while they are published: by sockets that are bound and
// never read, as the rules send the packets elsewhere.
//
// It finds a conflict before anything depends on the port, and names who is in the way. Callers: overlay/bridge,
// overlay/mesh. No goroutines.
package hostport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Number is the protocol's in an IP header; 0 is one that we do not publish.
func Number(protocol string) byte {
	switch protocol {
	case "tcp":
		return unix.IPPROTO_TCP
	case "udp":
		return unix.IPPROTO_UDP
	case "sctp":
		return unix.IPPROTO_SCTP
	}
	return 0
}

// Hold takes the port on all of the host's addresses, or on one of them, until it is closed. ErrAlreadyExists: another
// program has it, and is named. ErrInvalidArgument: the host has no such address.
func Hold(protocol string, ip netip.Addr, port uint16) (io.Closer, error) {
	var families []string
	switch {
	case !ip.IsValid():
		families = []string{"4", "6"}
	case ip.Is4():
		families = []string{"4"}
	default:
		families = []string{"6"}
	}
	var held sockets
	for _, f := range families {
		s, err := bind(protocol, f, ip, port)
		if !ip.IsValid() && f == "6" && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
			continue // This host has no IPv6.
		}
		if err != nil {
			return nil, errors.Join(explain(err, protocol, ip, port), held.Close())
		}
		held = append(held, s)
	}
	return held, nil
}

func explain(err error, protocol string, ip netip.Addr, port uint16) error {
	name := fmt.Sprintf("%d/%s", port, protocol)
	if ip.IsValid() {
		name = ip.String() + ":" + name
	}
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("port %s is in use on this host by %s: %w", name, holder(protocol, port), errdefs.ErrAlreadyExists)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("port %s: this host has no such address: %w", name, errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("port %s: %w", name, err)
}

func bind(protocol, family string, ip netip.Addr, port uint16) (io.Closer, error) {
	host := ""
	if ip.IsValid() {
		host = ip.String()
	}
	addr := net.JoinHostPort(host, strconv.Itoa(int(port)))
	var lc net.ListenConfig
	switch protocol {
	case "tcp":
		return lc.Listen(context.Background(), "tcp"+family, addr)
	case "udp":
		return lc.ListenPacket(context.Background(), "udp"+family, addr)
	default:
		// Few kernels have SCTP sockets; the callers' books are enough.
		return sockets(nil), nil
	}
}

type sockets []io.Closer

func (s sockets) Close() error {
	var errs []error
	for _, c := range s {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
