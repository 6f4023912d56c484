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
	// unusedVNI is a VXLAN network identifier that no cluster uses, so VXLAN devices drop its
	// packets silently.
	unusedVNI = 0xfffffe
	// etherExperiment is the EtherType that IEEE 802 reserves for local experiments.
	etherExperiment = 0x88b5
	// magic and a random nonce identify the packets of a probe.
	magic     = "swarm-doctor"
	nonceSize = 16
	// frameSize is the size of the small packet: VXLAN header, Ethernet header, magic, nonce, and
	// one byte that tells whether the packet is the large one.
	frameSize = 8 + 14 + len(magic) + nonceSize + 1
	// maxPacket is more than any Ethernet carries.
	maxPacket = 9216
	// sendInterval is the time between two pairs of packets. Packets are repeated, so the loss of
	// one does not fail the test.
	sendInterval = 100 * time.Millisecond
)

// frame returns the payload of a VXLAN packet. It is padded to size, if size is more than
// frameSize.
func frame(nonce []byte, large bool, size int) []byte {
	b := make([]byte, 0, max(size, frameSize))
	b = append(b, 0x08, 0, 0, 0) // the flag for a valid VNI (RFC 7348)
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

// matchProbe reports whether a UDP datagram, with its header, is a probe packet for that port and
// nonce, and whether it is the large one.
func matchProbe(datagram []byte, port uint16, nonce []byte) (large, ok bool) {
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

// packetReceiver receives the packets of one probe through a raw socket. A raw socket gets copies
// of the packets that the firewall lets through, so a VXLAN device can use the same port.
type packetReceiver struct {
	conn  net.PacketConn
	port  uint16
	nonce []byte
	done  chan struct{} // closed when the reader has ended

	mu           sync.Mutex    // guards the fields below
	small, large bool          // whether a packet of the size has arrived
	changed      chan struct{} // closed and replaced when one of them arrives
}

// newReceiver begins to receive packets of the address family of from.
func newReceiver(ctx context.Context, from netip.Addr, port uint16, nonce []byte) (*packetReceiver, error) {
	network := fmt.Sprintf("ip4:%d", unix.IPPROTO_UDP)
	if from.Is6() {
		network = fmt.Sprintf("ip6:%d", unix.IPPROTO_UDP)
	}
	var config net.ListenConfig
	conn, err := config.ListenPacket(ctx, network, "")
	if err != nil {
		return nil, fmt.Errorf("open a raw socket for UDP: %w", err)
	}
	r := &packetReceiver{conn: conn, port: port, nonce: nonce, done: make(chan struct{}), changed: make(chan struct{})}
	go r.read()
	return r, nil
}

// read records the packets of the probe until the socket is closed.
func (r *packetReceiver) read() {
	defer close(r.done)
	buf := make([]byte, 64<<10)
	for {
		n, _, err := r.conn.ReadFrom(buf)
		if err != nil {
			return // The socket was closed.
		}
		if large, ok := matchProbe(buf[:n], r.port, r.nonce); ok {
			r.record(large)
		}
	}
}

// record records that a packet has arrived.
func (r *packetReceiver) record(large bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if large {
		r.large = true
	} else {
		r.small = true
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// wait returns when packets of both sizes have arrived or ctx has ended, and reports which have
// arrived.
func (r *packetReceiver) wait(ctx context.Context) (small, large bool) { return r.waitFor(ctx, true) }

// waitFor is like wait, but if both is false it does not wait for the large packet.
func (r *packetReceiver) waitFor(ctx context.Context, both bool) (small, large bool) {
	for {
		r.mu.Lock()
		small, large = r.small, r.large
		changed := r.changed
		r.mu.Unlock()
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

// Close closes the socket and waits for the reader.
func (r *packetReceiver) Close() error {
	err := r.conn.Close()
	<-r.done
	return err
}

// packetSender sends the packets of one probe.
type packetSender struct {
	conn *net.UDPConn
	to   netip.AddrPort
	// packet is the size, in bytes, of the large IP packet.
	packet       int
	small, large []byte
}

// newSender returns a sender to that address. The size of the large packet is the MTU of the
// interface that leads there.
func newSender(to netip.AddrPort, nonce []byte) (*packetSender, error) {
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
		// The large packet must not be fragmented. It must be sent even if the kernel has learned
		// of a smaller MTU, because the probe tests whether the packet arrives.
		err = raw.Control(func(fd uintptr) { failure = unix.SetsockoptInt(int(fd), level, option, unix.IP_PMTUDISC_PROBE) })
		err = errors.Join(err, failure)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	packet := min(mtu, maxPacket)
	return &packetSender{
		conn: conn, to: to, packet: packet, small: frame(nonce, false, 0), large: frame(nonce, true, packet-headers),
	}, nil
}

// send sends pairs of packets until ctx ends, at least one pair. Errors are ignored, because a
// packet that cannot be sent does not arrive, which is the result of the test.
func (s *packetSender) send(ctx context.Context) {
	tick := time.NewTicker(sendInterval)
	defer tick.Stop()
	for {
		_, _ = s.conn.WriteToUDPAddrPort(s.small, s.to)
		_, _ = s.conn.WriteToUDPAddrPort(s.large, s.to)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Close closes the socket.
func (s *packetSender) Close() error { return s.conn.Close() }

// mtuTowards returns the MTU of the interface that leads to an address.
func mtuTowards(to netip.AddrPort) (int, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to)) // Finds the route and sends nothing.
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
			continue // The interface was removed meanwhile.
		}
		if slices.ContainsFunc(addrs, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			return ok && n.IP.Equal(local)
		}) {
			return link.MTU, nil
		}
	}
	return 0, fmt.Errorf("no interface has the address %s, which is the source of packets to %s", local, to.Addr())
}
