//go:build linux

// Package hostport keeps ports of the host from every other program while they are published: by sockets that are bound and
// never read, as the rules send the packets elsewhere.
//
// It finds a conflict before anything depends on the port, and names who is in the way. Until the rules are there, a client is
// refused: a socket that listened would take it in, and never answer. Callers: overlay/bridge, overlay/mesh. No goroutines.
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

// Held is a port that no other program can have.
type Held struct {
	protocol string
	ip       netip.Addr
	port     uint16

	streams   []int // of TCP
	listening bool
	datagrams []net.PacketConn
}

// Hold takes the port on all of the host's addresses, or on one of them, until it is closed. ErrAlreadyExists: another
// program has it, and is named. ErrInvalidArgument: the host has no such address.
func Hold(protocol string, ip netip.Addr, port uint16) (*Held, error) {
	var families []int
	switch {
	case !ip.IsValid():
		families = []int{4, 6}
	case ip.Is4():
		families = []int{4}
	default:
		families = []int{6}
	}
	h := &Held{protocol: protocol, ip: ip, port: port}
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

// Listen is called once the rules send away what comes to the port. Programs that set SO_REUSEADDR, as servers do, are kept
// from it only from then on: ErrAlreadyExists when one was faster.
func (h *Held) Listen() error {
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

// Close gives the port back.
func (h *Held) Close() error {
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

func (h *Held) bind(family int) error {
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
	// Few kernels have SCTP sockets; the callers' books are enough.
	return nil
}

// bindStream is what package net does to listen, short of it.
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
