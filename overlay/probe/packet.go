//go:build linux

package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// unusedVNI is a network that no cluster has: VXLAN devices drop its packets silently.
	unusedVNI = 0xfffffe
	// etherExperiment is IEEE 802's type for local experiments.
	etherExperiment = 0x88b5
	magic           = "swarm-doctor"
	nonceSize       = 16
	// frameSize is that of the small packet: VXLAN header, Ethernet header, magic, nonce, and whether it is the large one.
	frameSize = 8 + 14 + len(magic) + nonceSize + 1
	// largest is beyond what any Ethernet carries.
	largest = 9216
	// sendInterval is the time between two pairs of packets: one that is lost is no verdict.
	sendInterval = 100 * time.Millisecond
)

// frame is a VXLAN packet's content, padded to size when that is more than it needs.
func frame(nonce []byte, large bool, size int) []byte {
	b := make([]byte, 0, max(size, frameSize))
	b = append(b, 0x08, 0, 0, 0) // the flag that says that a VNI follows (RFC 7348)
	b = binary.BigEndian.AppendUint32(b, unusedVNI<<8)
	b = append(b, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2)
	b = binary.BigEndian.AppendUint16(b, etherExperiment)
	b = append(append(b, magic...), nonce...)
	if large {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	return b[:cap(b)]
}

// heardIn tells whether a UDP datagram, with its header, is one of frame's for the port and nonce.
func heardIn(datagram []byte, port uint16, nonce []byte) (large, ok bool) {
	const header = 8
	if len(datagram) < header+frameSize || binary.BigEndian.Uint16(datagram[2:]) != port {
		return false, false
	}
	want := frame(nonce, false, 0)
	got := datagram[header : header+frameSize]
	if !bytes.Equal(got[:frameSize-1], want[:frameSize-1]) {
		return false, false
	}
	return got[frameSize-1] == 1, true
}

// ear hears the packets of one probe. It reads copies of what the firewall lets through: the kernel's VXLAN device, if
// there is one, goes on to own the port.
type ear struct {
	conn  net.PacketConn
	port  uint16
	nonce []byte
	done  chan struct{} // closed when the reader has ended

	mu           sync.Mutex // guards what follows
	small, large bool
	changed      chan struct{} // closed and replaced when one of them comes
}

// listen hears packets of the address family of from.
func listen(ctx context.Context, from netip.Addr, port uint16, nonce []byte) (*ear, error) {
	network := fmt.Sprintf("ip4:%d", unix.IPPROTO_UDP)
	if from.Is6() {
		network = fmt.Sprintf("ip6:%d", unix.IPPROTO_UDP)
	}
	var config net.ListenConfig
	conn, err := config.ListenPacket(ctx, network, "")
	if err != nil {
		return nil, fmt.Errorf("listen to packets: %w", err)
	}
	e := &ear{conn: conn, port: port, nonce: nonce, done: make(chan struct{}), changed: make(chan struct{})}
	go e.read()
	return e, nil
}

func (e *ear) read() {
	defer close(e.done)
	buf := make([]byte, 64<<10)
	for {
		n, _, err := e.conn.ReadFrom(buf)
		if err != nil {
			return // Close, or an interface that went: nothing more is heard.
		}
		if large, ok := heardIn(buf[:n], e.port, e.nonce); ok {
			e.note(large)
		}
	}
}

func (e *ear) note(large bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if large {
		e.large = true
	} else {
		e.small = true
	}
	close(e.changed)
	e.changed = make(chan struct{})
}

// wait returns when both sizes have come, or with what has when ctx ends.
func (e *ear) wait(ctx context.Context) (small, large bool) { return e.await(ctx, true) }

// await is wait, if need be without the large one.
func (e *ear) await(ctx context.Context, both bool) (small, large bool) {
	for {
		e.mu.Lock()
		small, large = e.small, e.large
		changed := e.changed
		e.mu.Unlock()
		if small && (large || !both) {
			return small, large
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return small, large
		}
	}
}

// Close ends the reader.
func (e *ear) Close() error {
	err := e.conn.Close()
	<-e.done
	return err
}

// mouth sends the packets of one probe.
type mouth struct {
	conn *net.UDPConn
	to   netip.AddrPort
	// packet is the size, in bytes, of the large IP packet.
	packet       int
	small, large []byte
}

func newMouth(to netip.AddrPort, nonce []byte) (*mouth, error) {
	mtu, err := mtuTowards(to)
	if err != nil {
		return nil, err
	}
	network, headers := "udp4", 20+8
	level, option := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if to.Addr().Is6() {
		network, headers = "udp6", 40+8
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	conn, err := net.ListenUDP(network, nil)
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		var failure error
		// In one piece, and whatever the kernel has learned of the way: that is what shall be found out.
		err = raw.Control(func(fd uintptr) { failure = unix.SetsockoptInt(int(fd), level, option, unix.IP_PMTUDISC_PROBE) })
		err = errors.Join(err, failure)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	packet := min(mtu, largest)
	return &mouth{
		conn: conn, to: to, packet: packet, small: frame(nonce, false, 0), large: frame(nonce, true, packet-headers),
	}, nil
}

// speak sends until ctx ends, once at least. What cannot be sent is not heard, which is the verdict.
func (m *mouth) speak(ctx context.Context) {
	tick := time.NewTicker(sendInterval)
	defer tick.Stop()
	for {
		_, _ = m.conn.WriteToUDPAddrPort(m.small, m.to)
		_, _ = m.conn.WriteToUDPAddrPort(m.large, m.to)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (m *mouth) Close() error { return m.conn.Close() }

// mtuTowards is the MTU of the interface that leads to an address.
func mtuTowards(to netip.AddrPort) (int, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to)) // Asks for a route; sends nothing.
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	local := conn.LocalAddr().(*net.UDPAddr).IP
	links, err := net.Interfaces()
	if err != nil {
		return 0, err
	}
	for _, link := range links {
		addrs, err := link.Addrs()
		if err != nil {
			continue // It went meanwhile.
		}
		if slices.ContainsFunc(addrs, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			return ok && n.IP.Equal(local)
		}) {
			return link.MTU, nil
		}
	}
	return 0, fmt.Errorf("no interface has the address %s, by which %s is reached", local, to.Addr())
}
