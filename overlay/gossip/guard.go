//go:build linux

package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"swarm/internal/logsample"
	"swarm/internal/origin"
	"swarm/overlay/gossip/envelope"
)

const (
	// maxStreams is how many streams may be open at the same time from all addresses that do not
	// belong to members.
	maxStreams = 64
	// maxStreamsEach is how many streams may be open at the same time from one address. A member
	// needs two: an exchange of state and a probe.
	maxStreamsEach = 8
)

// vxlanPrefix is the first byte of a VXLAN packet. A host that wants to join tests whether its UDP
// packets reach this port. It has no key for gossip yet, so it sends the packets with which it also
// tests the port of overlay networks, and these are VXLAN packets (overlay/probe). The guard drops
// them without a line in the log.
var vxlanPrefix = []byte{8}

// guard is a transport between memberlist and the network. It encrypts and signs what memberlist
// sends. It passes a received message to memberlist only if a member sent it and the filter admits
// it. memberlist itself has no key. The guard has one goroutine, until Shutdown.
type guard struct {
	raw    memberlist.NodeAwareTransport
	log    *logsample.Sampler
	sealer *envelope.Sealer
	opener *envelope.Opener
	// member reports whether an address is a member's.
	member func(netip.Addr) bool
	// received checks each claim that a node is alive, before memberlist sees it. sent signs such a
	// claim before it leaves this node. Both may change the claim.
	received, sent func(claim) error

	packets chan *memberlist.Packet
	streams chan net.Conn
	done    context.Context
	stop    context.CancelFunc
	readers sync.WaitGroup

	mu        sync.Mutex           // guards the fields below
	open      map[netip.Prefix]int // streams by origin; see admit
	strangers int                  // streams from addresses that do not belong to members
}

var _ memberlist.NodeAwareTransport = (*guard)(nil)

func newGuard(raw memberlist.Transport, log *slog.Logger, s *envelope.Sealer, o *envelope.Opener, member func(netip.Addr) bool, received, sent func(claim) error) *guard {
	aware, ok := raw.(memberlist.NodeAwareTransport)
	if !ok {
		aware = byAddress{raw}
	}
	g := &guard{
		raw: aware, log: logsample.New(log), sealer: s, opener: o, member: member, received: received, sent: sent,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), open: map[netip.Prefix]int{},
	}
	g.done, g.stop = context.WithCancel(context.Background())
	g.readers.Go(g.receive)
	return g
}

// byAddress adapts a transport that has no use for the names of nodes.
type byAddress struct{ memberlist.Transport }

func (t byAddress) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

func (t byAddress) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// receive opens packets and admits streams until Shutdown.
func (g *guard) receive() {
	for {
		select {
		case p := <-g.raw.PacketCh():
			fromJoiner := bytes.HasPrefix(p.Buf, vxlanPrefix) // Before unseal, which replaces Buf.
			if err := g.unseal(p); err != nil {
				if !fromJoiner {
					g.logRefused("packet", p.From, err)
				}
				continue
			}
			select {
			case g.packets <- p:
			case <-g.done.Done():
				return
			}
		case conn := <-g.raw.StreamCh():
			s, ok := g.admit(conn)
			if !ok {
				_ = conn.Close()
				continue
			}
			select {
			case g.streams <- s:
			case <-g.done.Done():
				_ = s.Close()
				return
			}
		case <-g.done.Done():
			return
		}
	}
}

// unseal replaces the envelope in p by its payload. It returns an error if memberlist must not see
// the payload.
func (g *guard) unseal(p *memberlist.Packet) error {
	return recovered(func() error {
		opened, err := g.opener.Open(p.Buf)
		switch {
		case err != nil:
			return err
		case opened.Kind != envelope.Packet:
			return envelope.ErrMalformed
		}
		p.Buf = withoutChecksum(opened.Payload)
		return admitPacket(p.Buf, g.received)
	})
}

// recovered calls fn and turns a panic into an error, so that no packet can end the daemon.
func recovered(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return fn()
}

// logRefused logs why a packet or stream was refused. Similar lines are sampled.
func (g *guard) logRefused(what string, from net.Addr, err error) {
	at := origin.Of(from)
	g.log.Log(slog.LevelInfo, what+" "+at.String()+" "+err.Error(), "gossip "+what+" refused", "from", at, "err", err)
}

// admit accepts a stream, unless too many are open. It counts the streams of a member by its
// address. It counts other streams by origin, which for IPv6 is a whole network that may have
// members too.
func (g *guard) admit(conn net.Conn) (*stream, bool) {
	at := origin.Of(conn.RemoteAddr())
	from, _ := netip.ParseAddrPort(conn.RemoteAddr().String()) // After an error the address is no member's.
	addr := from.Addr().Unmap().WithZone("")
	stranger := !g.member(addr)
	if !stranger {
		at = netip.PrefixFrom(addr, addr.BitLen())
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[at] >= maxStreamsEach || stranger && g.strangers >= maxStreams {
		g.logRefused("stream", conn.RemoteAddr(), errors.New("too many streams are open"))
		return nil, false
	}
	g.open[at]++
	if stranger {
		g.strangers++
	}
	return &stream{Conn: conn, guard: g, release: sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.open[at]--; g.open[at] == 0 {
			delete(g.open, at)
		}
		if stranger {
			g.strangers--
		}
	})}, true
}

// stream is a connection to another member. It carries one message in each direction, as memberlist
// uses it. memberlist sets the deadlines and closes it.
type stream struct {
	net.Conn
	guard   *guard
	release func()
	read    bool   // whether the message was read from the connection
	message []byte // the part of the message that memberlist has not read yet
	refused error  // why the message was refused
}

func (s *stream) Read(b []byte) (int, error) {
	if !s.read {
		s.read = true
		s.refused = recovered(func() error {
			_, message, err := s.guard.opener.ReadMessage(s.Conn)
			if err != nil {
				return err
			}
			s.message = message
			return admitStream(message, s.guard.received)
		})
		if s.refused != nil {
			s.message = nil
			s.guard.logRefused("stream", s.RemoteAddr(), s.refused)
		}
	}
	if len(s.message) == 0 {
		// The cause is logged already. memberlist would send another error to the other side.
		return 0, io.EOF
	}
	n := copy(b, s.message)
	s.message = s.message[n:]
	return n, nil
}

func (s *stream) Write(b []byte) (int, error) {
	if s.refused != nil {
		return 0, s.refused
	}
	message := bytes.Clone(b) // A Writer must not change b.
	// Other members refuse a message that the filter refuses, so an error needs no action here.
	_ = admitStream(message, s.guard.sent)
	sealed, err := s.guard.sealer.Message(message)
	if err != nil {
		return 0, err
	}
	if _, err := s.Conn.Write(sealed); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (s *stream) Close() error {
	s.release()
	return s.Conn.Close()
}

// PacketCh and the methods below implement memberlist.NodeAwareTransport.
func (g *guard) PacketCh() <-chan *memberlist.Packet { return g.packets }

func (g *guard) StreamCh() <-chan net.Conn { return g.streams }

func (g *guard) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	return g.raw.FinalAdvertiseAddr(ip, port)
}

func (g *guard) WriteTo(b []byte, addr string) (time.Time, error) {
	return g.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (g *guard) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	packet := bytes.Clone(withoutChecksum(b)) // memberlist may send b to other members too.
	// Other members refuse a packet that the filter refuses, so an error needs no action here.
	_ = admitPacket(packet, g.sent)
	sealed, err := g.sealer.Packet(packet)
	if err != nil {
		return time.Time{}, err
	}
	return g.raw.WriteToAddress(sealed, addr)
}

func (g *guard) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return g.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (g *guard) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	conn, err := g.raw.DialAddressTimeout(addr, timeout)
	if err != nil {
		return nil, err
	}
	return &stream{Conn: conn, guard: g, release: func() {}}, nil
}

// Shutdown closes the transport below, and waits for the goroutine. A second call does nothing.
func (g *guard) Shutdown() error {
	err := g.raw.Shutdown()
	g.stop()
	g.readers.Wait()
	return err
}
