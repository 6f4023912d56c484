//go:build linux

// Package hostport reserves published ports of the host, so that no other program can use them. It
// binds sockets and never reads from them: nftables rules redirect the packets before they reach
// the sockets.
//
// Binding also finds a conflict before anything depends on the port, and the error names the
// program that uses the port. A socket does not listen until the caller has written the rules.
// Until then clients are refused; a listening socket would accept them and never answer.
//
// Its callers are overlay/bridge and overlay/mesh. It starts no goroutines.
package hostport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Number returns the number of a protocol in the IP header: "tcp", "udp" or "sctp". It returns zero
// for any other protocol, which cannot be published.
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

// Reservation is a reserved port of the host.
type Reservation struct {
	protocol string
	ip       netip.Addr
	port     uint16

	streams   []int // file descriptors of the TCP sockets
	listening bool
	datagrams []net.PacketConn
}

// Reserve reserves a port on all addresses of the host, or on one address if ip is valid, until
// Close is called. Errors: ErrAlreadyExists if another program uses the port (the text names it);
// ErrInvalidArgument if the host does not have the address.
func Reserve(protocol string, ip netip.Addr, port uint16) (*Reservation, error) {
	var families []int
	switch {
	case !ip.IsValid():
		families = []int{4, 6}
	case ip.Is4():
		families = []int{4}
	default:
		families = []int{6}
	}
	h := &Reservation{protocol: protocol, ip: ip, port: port}
	for _, f := range families {
		err := h.bind(f)
		if !ip.IsValid() && f == 6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
			continue // This host has no IPv6.
		}
		if err != nil {
			return nil, errors.Join(explain(err, protocol, ip, port), h.Close())
		}
	}
	return h, nil
}

// Listen makes the TCP sockets listen. Call it after the rules redirect the port. Before Listen, a
// program that sets SO_REUSEADDR, as most servers do, can still bind the port. Listen returns
// ErrAlreadyExists if one has done so.
func (h *Reservation) Listen() error {
	if h.listening {
		return nil
	}
	for _, fd := range h.streams {
		if err := unix.Listen(fd, 1); err != nil {
			return explain(err, h.protocol, h.ip, h.port)
		}
	}
	h.listening = true
	return nil
}

// Close releases the port.
func (h *Reservation) Close() error {
	var errs []error
	for _, fd := range h.streams {
		errs = append(errs, unix.Close(fd))
	}
	for _, c := range h.datagrams {
		errs = append(errs, c.Close())
	}
	h.streams, h.datagrams = nil, nil
	return errors.Join(errs...)
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

func (h *Reservation) bind(family int) error {
	switch h.protocol {
	case "tcp":
		fd, err := bindStream(family, h.ip, h.port)
		if err == nil {
			h.streams = append(h.streams, fd)
		}
		return err
	case "udp":
		host := ""
		if h.ip.IsValid() {
			host = h.ip.String()
		}
		var lc net.ListenConfig
		c, err := lc.ListenPacket(context.Background(), "udp"+strconv.Itoa(family), net.JoinHostPort(host, strconv.Itoa(int(h.port))))
		if err == nil {
			h.datagrams = append(h.datagrams, c)
		}
		return err
	}
	// Few kernels have SCTP sockets. The callers check SCTP ports against each other.
	return nil
}

// bindStream creates a TCP socket and binds it, as net.Listen does, but does not listen.
func bindStream(family int, ip netip.Addr, port uint16) (int, error) {
	var (
		domain                = unix.AF_INET
		addr    unix.Sockaddr = &unix.SockaddrInet4{Port: int(port)}
		options               = [][3]int{{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}}
	)
	switch {
	case family == 6:
		six := &unix.SockaddrInet6{Port: int(port)}
		if ip.IsValid() {
			six.Addr = ip.As16()
		}
		domain, addr, options = unix.AF_INET6, six, append(options, [3]int{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1})
	case ip.IsValid():
		addr = &unix.SockaddrInet4{Port: int(port), Addr: ip.As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	for _, o := range options {
		err = errors.Join(err, unix.SetsockoptInt(fd, o[0], o[1], o[2]))
	}
	if err == nil {
		err = unix.Bind(fd, addr)
	}
	if err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}
