package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// spoofer writes raw frames to the interface of the default route, with an address that belongs to
// another container or to none.
type spoofer struct {
	fd          int
	mac, router net.HardwareAddr
	addr        netip.Addr
	dial        netip.AddrPort // the zero value: none
	told        map[string]bool
}

// spoof claims an address for ever and answers connections to it. If dial is set, it also opens a
// connection from that address.
func spoof(addr, dial string) error {
	s := spoofer{told: make(map[string]bool)}
	var err error
	if s.addr, err = netip.ParseAddr(addr); err != nil {
		return err
	}
	if dial != "" {
		if s.dial, err = netip.ParseAddrPort(dial); err != nil {
			return err
		}
	}
	if err := s.open(); err != nil {
		return err
	}
	log.Print("spoof: begins")
	buf := make([]byte, 64<<10)
	for next := time.Now(); ; {
		if now := time.Now(); now.After(next) {
			next = now.Add(100 * time.Millisecond)
			s.claim(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, s.addr)
			if s.dial.IsValid() {
				s.segment(s.router, s.dial, 40000, 1, 0, syn, nil)
			}
		}
		n, _, err := unix.Recvfrom(s.fd, buf, 0)
		switch {
		case err == nil:
			s.take(buf[:n])
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("read frames: %w", err)
		}
	}
}

// open finds the interface and the router of the default route.
func (s *spoofer) open() error {
	routes, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(routes)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[1] != "00000000" {
			continue
		}
		raw, err := hex.DecodeString(f[2])
		if err != nil || len(raw) != 4 {
			return fmt.Errorf("route %q", line)
		}
		slices.Reverse(raw)
		router, _ := netip.AddrFromSlice(raw)
		link, err := net.InterfaceByName(f[0])
		if err != nil {
			return err
		}
		s.mac = link.HardwareAddr
		if s.router, err = hardwareOf(router); err != nil {
			return err
		}
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		return errors.Join(unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}),
			unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}))
	}
	return errors.New("no default route")
}

// hardwareOf has the kernel resolve the hardware address of a neighbour.
func hardwareOf(addr netip.Addr) (net.HardwareAddr, error) {
	for range 100 {
		if c, err := net.Dial("udp", netip.AddrPortFrom(addr, 9).String()); err == nil {
			_, _ = c.Write([]byte("who are you"))
			_ = c.Close()
		}
		table, err := os.ReadFile("/proc/net/arp")
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) > 3 && f[0] == addr.String() && f[2] != "0x0" {
				return net.ParseMAC(f[3])
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, fmt.Errorf("neighbour %s does not answer", addr)
}

// claim sends an ARP reply.
func (s *spoofer) claim(to net.HardwareAddr, asker netip.Addr) {
	s.send(slices.Concat(to, s.mac, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2}, s.mac, s.addr.AsSlice(), to, asker.AsSlice()))
}

// send ignores errors, because the tests check which frames arrive.
func (s *spoofer) send(frame []byte) { _ = unix.Sendto(s.fd, frame, 0, nil) }

const (
	syn = 2
	psh = 8
	ack = 16
)

// take answers ARP requests and TCP segments to the claimed address, and continues the spoofer's
// own connection.
func (s *spoofer) take(frame []byte) {
	const ether, ip, tcp = 14, 20, 20
	if len(frame) < ether+28 {
		return
	}
	from, body := slices.Clone(net.HardwareAddr(frame[6:12])), frame[ether:]
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == unix.ETH_P_ARP && body[7] == 1 && bytes.Equal(body[24:28], s.addr.AsSlice()):
		asker, _ := netip.AddrFromSlice(body[14:18])
		s.claim(from, asker)
	case kind == unix.ETH_P_IP && body[9] == unix.IPPROTO_TCP && bytes.Equal(body[16:20], s.addr.AsSlice()) && len(body) >= ip+tcp:
		t := body[ip:]
		peer, _ := netip.AddrFromSlice(body[12:16])
		to := netip.AddrPortFrom(peer, binary.BigEndian.Uint16(t))
		port, seq := binary.BigEndian.Uint16(t[2:]), binary.BigEndian.Uint32(t[4:])
		switch t[13] & (syn | ack) {
		case syn:
			s.tell("spoof: took a connection")
			s.segment(from, to, port, 1, seq+1, syn|ack, nil)
			s.segment(from, to, port, 2, seq+1, psh|ack, []byte("HTTP/1.0 200 OK\r\n\r\nstolen\n"))
		case syn | ack:
			s.tell("spoof: reached " + to.String())
			s.segment(from, to, port, 2, seq+1, ack, nil)
		}
	}
}

func (s *spoofer) tell(what string) {
	if !s.told[what] {
		s.told[what] = true
		log.Print(what)
	}
}

// segment sends a TCP segment.
func (s *spoofer) segment(via net.HardwareAddr, to netip.AddrPort, port uint16, seq, seen uint32, flags byte, data []byte) {
	t := binary.BigEndian.AppendUint16(nil, port)
	t = binary.BigEndian.AppendUint16(t, to.Port())
	t = binary.BigEndian.AppendUint32(t, seq)
	t = binary.BigEndian.AppendUint32(t, seen)
	t = slices.Concat(t, []byte{5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0}, data)
	pseudo := slices.Concat(s.addr.AsSlice(), to.Addr().AsSlice(), []byte{0, unix.IPPROTO_TCP}, binary.BigEndian.AppendUint16(nil, uint16(len(t))), t)
	binary.BigEndian.PutUint16(t[16:], checksum(pseudo))
	length := binary.BigEndian.AppendUint16(nil, uint16(20+len(t)))
	header := slices.Concat([]byte{0x45, 0}, length, []byte{0, 1, 0, 0, 64, unix.IPPROTO_TCP, 0, 0}, s.addr.AsSlice(), to.Addr().AsSlice())
	binary.BigEndian.PutUint16(header[10:], checksum(header))
	s.send(slices.Concat(via, s.mac, []byte{8, 0}, header, t))
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i%2))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
