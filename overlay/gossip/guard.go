//go:build linux

package gossip

import (
	"bytes"
	"context"
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
	// maxStreams are open at once to this node, from all addresses that are no member's.
	maxStreams = 64
	// maxStreamsEach are open at once from one address. A member has two: an exchange of state, and
	// a probe.
	maxStreamsEach = 8
)

// probed begins a VXLAN packet, such as a host sends that wants to join, to try the port.
var probed = []byte{8}

// guard stands between memberlist and the network. Memberlist gets the messages of members and
// nothing else, in the forms that it sends itself; what it sends is sealed. Memberlist has no key
// of its own.
//
// One goroutine, until Shutdown.
type guard struct {
	raw    memberlist.NodeAwareTransport
	log    *logsample.Sampler
	sealer *envelope.Sealer
	opener *envelope.Opener
	// member says whether an address is a member's.
	member func(netip.Addr) bool

	packets chan *memberlist.Packet
	streams chan net.Conn
	done    context.Context
	stop    context.CancelFunc
	readers sync.WaitGroup

	mu   sync.Mutex // guards what follows
	open map[netip.Prefix]int
	all  int
}

var _ memberlist.NodeAwareTransport = (*guard)(nil)

func newGuard(raw memberlist.Transport, log *slog.Logger, s *envelope.Sealer, o *envelope.Opener, member func(netip.Addr) bool) *guard {
	aware, ok := raw.(memberlist.NodeAwareTransport)
	if !ok {
		aware = byAddress{raw}
	}
	g := &guard{
		raw: aware, log: logsample.New(log), sealer: s, opener: o, member: member,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), open: map[netip.Prefix]int{},
	}
	g.done, g.stop = context.WithCancel(context.Background())
	g.readers.Go(g.receive)
	return g
}

// byAddress is a transport that does not care for names.
type byAddress struct{ memberlist.Transport }

func (t byAddress) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

func (t byAddress) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

func (g *guard) receive() {
	for {
		select {
		case p := <-g.raw.PacketCh():
			fromJoiner := bytes.HasPrefix(p.Buf, probed)
			if err := g.unseal(p); err != nil {
				if !fromJoiner {
					g.refused("packet", p.From, err)
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

func (g *guard) unseal(p *memberlist.Packet) error {
	return guarded(func() error {
		opened, err := g.opener.Open(p.Buf)
		switch {
		case err != nil:
			return err
		case opened.Kind != envelope.Packet:
			return envelope.ErrMalformed
		}
		p.Buf = opened.Payload
		return admitPacket(p.Buf)
	})
}

// guarded turns a panic over what others sent into an error: no packet ends this daemon.
func guarded(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return fn()
}

func (g *guard) refused(what string, from net.Addr, err error) {
	at := origin.Of(from)
	g.log.Log(slog.LevelInfo, what+" "+at.String()+" "+err.Error(), "gossip "+what+" refused", "from", at, "err", err)
}

// admit takes a stream in, unless too many are open. A member is counted by its address; others share the budget of their
// origin, which for IPv6 is a whole network and may be that of a member.
func (g *guard) admit(conn net.Conn) (*stream, bool) {
	at := origin.Of(conn.RemoteAddr())
	from, _ := netip.ParseAddrPort(conn.RemoteAddr().String()) // the zero address is no member's
	addr := from.Addr().Unmap().WithZone("")
	anonymous := !g.member(addr)
	if !anonymous {
		at = netip.PrefixFrom(addr, addr.BitLen())
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[at] >= maxStreamsEach || anonymous && g.all >= maxStreams {
		g.refused("stream", conn.RemoteAddr(), fmt.Errorf("too many are open"))
		return nil, false
	}
	g.open[at]++
	if anonymous {
		g.all++
	}
	return &stream{Conn: conn, guard: g, release: sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.open[at]--; g.open[at] == 0 {
			delete(g.open, at)
		}
		if anonymous {
			g.all--
		}
	})}, true
}

// stream is a connection to another member: one message in each direction, as memberlist uses it.
// Memberlist sets the deadlines, and closes it.
type stream struct {
	net.Conn
	guard   *guard
	release func()
	// message is the rest of what has been read; refused is why there is none.
	read    bool
	message []byte
	refused error
}

func (s *stream) Read(b []byte) (int, error) {
	if !s.read {
		s.read = true
		s.refused = guarded(func() error {
			_, message, err := s.guard.opener.ReadMessage(s.Conn)
			if err != nil {
				return err
			}
			s.message = message
			return admitStream(message)
		})
		if s.refused != nil {
			s.message = nil
			s.guard.refused("stream", s.RemoteAddr(), s.refused)
		}
	}
	if len(s.message) == 0 {
		// Why is known here: to memberlist it is the end, of which it does not tell the other side.
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
	sealed, err := s.guard.sealer.Message(b)
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

// PacketCh and the rest are memberlist.NodeAwareTransport.
func (g *guard) PacketCh() <-chan *memberlist.Packet { return g.packets }

func (g *guard) StreamCh() <-chan net.Conn { return g.streams }

func (g *guard) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	return g.raw.FinalAdvertiseAddr(ip, port)
}

func (g *guard) WriteTo(b []byte, addr string) (time.Time, error) {
	return g.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (g *guard) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	sealed, err := g.sealer.Packet(b)
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

// Shutdown closes the port, and waits for the readers. A second call does nothing.
func (g *guard) Shutdown() error {
	err := g.raw.Shutdown()
	g.stop()
	g.readers.Wait()
	return err
}
