//go:build linux

package resolve

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"swarm/internal/pause"
	"swarm/overlay/netns"
	swarmv1 "swarm/proto/swarm/v1"
)

// Address is the name server's in every container, as in Docker: configurations name it.
const Address = "127.0.0.11"

var address = netip.MustParseAddr(Address)

const (
	// The sockets' port is from here on: above those that the kernel gives to clients, and not 53, which a
	// container may want for itself.
	firstPort, ports = 61000, 4500
	// maxQuestion is what a question may have, in bytes, over UDP and over TCP.
	maxQuestion = 1232
	// tcpIdle ends a connection on which nothing is asked, and one that does not take its answer.
	tcpIdle = 10 * time.Second
	// socketRest keeps a socket that only fails from taking a core.
	socketRest = 10 * time.Millisecond
	// maxStreams and maxPassed bound what one container can make us hold: connections, and questions to others.
	maxStreams, maxPassed = 64, 256
	// ownStreams and ownPassed of these are always free for the container. sharedStreams and sharedPassed bound what
	// all containers of the server have beyond them.
	ownStreams, ownPassed       = 4, 16
	sharedStreams, sharedPassed = 256, 1024
)

// slots are what one container may have at once.
type slots struct {
	own, more chan struct{}
	shared    chan struct{} // of all containers
}

func newSlots(own, most int, shared chan struct{}) slots {
	return slots{own: make(chan struct{}, own), more: make(chan struct{}, most-own), shared: shared}
}

// take takes one, until free is called. Not ok: the container, or all of them together, have as many as they may.
func (s slots) take() (free func(), ok bool) {
	try := func(c chan struct{}) bool {
		select {
		case c <- struct{}{}:
			return true
		default:
			return false
		}
	}
	if try(s.own) {
		return func() { <-s.own }, true
	}
	if !try(s.more) {
		return nil, false
	}
	if !try(s.shared) {
		<-s.more
		return nil, false
	}
	return func() { <-s.shared; <-s.more }, true
}

// container is one that is served.
type container struct {
	s   *Server
	id  netns.ID
	cfg atomic.Pointer[asker]
	udp *net.UDPConn
	tcp *net.TCPListener

	// stop ends questions under way; wg has all goroutines.
	stop context.CancelFunc
	wg   sync.WaitGroup
	// streams are for connections, passed for questions over UDP to others.
	streams, passed slots
}

func openContainer(ctx context.Context, s *Server, cfg *swarmv1.ResolverContainer) (*container, error) {
	ns, err := netns.Open(cfg.Netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	c := &container{
		s: s, id: ns.ID(),
		streams: newSlots(ownStreams, maxStreams, s.streams), passed: newSlots(ownPassed, maxPassed, s.passed),
	}
	c.cfg.Store(newAsker(cfg, nil))
	if err := ns.Do(func() error { return c.listen(cfg.Id) }); err != nil {
		return nil, err
	}
	if err := redirect(cfg.Netns, c.port()); err != nil {
		return nil, errors.Join(err, c.udp.Close(), c.tcp.Close())
	}
	// The container is served longer than the message that said so is handled.
	ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	c.wg.Go(func() { c.serveUDP(ctx) })
	c.wg.Go(func() { c.serveTCP(ctx) })
	return c, nil
}

// listen tries the same ports in the same order every time: after a restart the container's connection tracking
// still leads a client that asks again to the port of before.
func (c *container) listen(id string) error {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	var last error
	for i := range uint32(16) {
		at := netip.AddrPortFrom(address, uint16(firstPort+(h.Sum32()+i*331)%ports))
		udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		if err != nil {
			last = err
			continue
		}
		tcp, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
		if err != nil {
			last = errors.Join(err, udp.Close())
			continue
		}
		c.udp, c.tcp = udp, tcp
		return nil
	}
	return fmt.Errorf("listen on %s: %w", address, last)
}

func (c *container) port() uint16 { return c.udp.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

// in tells whether the container is served in the namespace that is pinned there now.
func (c *container) in(pin string) bool {
	ns, err := netns.Open(pin)
	if err != nil {
		return false
	}
	defer ns.Close()
	return ns.ID() == c.id
}

// close takes the sockets away: open ones would keep the namespace alive.
func (c *container) close() {
	c.stop()
	_ = c.udp.Close()
	_ = c.tcp.Close()
	c.wg.Wait()
}

// serveUDP answers what we know at once, and passes the rest on beside.
func (c *container) serveUDP(ctx context.Context) {
	buf := make([]byte, maxQuestion)
	for {
		n, from, err := c.udp.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if pause.For(ctx, socketRest) != nil {
				return
			}
			continue
		}
		req, err := readQuestion(buf[:n])
		if err != nil {
			continue
		}
		if m := c.s.local(c.cfg.Load(), req); m != nil {
			c.answerUDP(req, m, from)
			continue
		}
		free, ok := c.passed.take()
		if !ok {
			c.answerUDP(req, reply(req, dns.RcodeServerFailure), from)
			continue
		}
		c.wg.Go(func() {
			defer free()
			if m := c.s.pass(ctx, c.cfg.Load().ResolverContainer, req, false); m != nil {
				c.answerUDP(req, m, from)
			}
		})
	}
}

func (c *container) answerUDP(req, m *dns.Msg, to netip.AddrPort) {
	b, err := pack(req, m, false)
	if err == nil {
		_, err = c.udp.WriteToUDPAddrPort(b, to)
	}
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, unix.EPERM) {
		c.s.log.Debug("answer", "container", c.cfg.Load().Id, "err", err)
	}
}

func (c *container) serveTCP(ctx context.Context) {
	for {
		conn, err := c.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if pause.For(ctx, socketRest) != nil {
				return
			}
			continue
		}
		free, ok := c.streams.take()
		if !ok {
			conn.Close()
			continue
		}
		c.wg.Go(func() {
			defer free()
			c.serveStream(ctx, conn)
		})
	}
}

// serveStream answers one question after the other.
func (c *container) serveStream(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for {
		_ = conn.SetDeadline(time.Now().Add(tcpIdle))
		req, err := readMsg(conn)
		if err != nil {
			return
		}
		m := c.s.local(c.cfg.Load(), req)
		if m == nil {
			m = c.s.pass(ctx, c.cfg.Load().ResolverContainer, req, true)
		}
		if m == nil {
			return
		}
		b, err := pack(req, m, true)
		if err != nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(tcpIdle))
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
			return
		}
	}
}

func readMsg(from io.Reader) (*dns.Msg, error) {
	var size [2]byte
	if _, err := io.ReadFull(from, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(size[:])
	if n > maxQuestion {
		return nil, os.ErrInvalid
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(from, b); err != nil {
		return nil, err
	}
	return readQuestion(b)
}

// headerSize is what a message begins with, in bytes: its id, flags, and the number of records in each of its four sections.
const headerSize = 12

// readQuestion decodes what a client sent. It is an error when that is no question at all. A question has one record of
// EDNS besides, at most: of a message with more records the header alone is decoded, and refused, because a decoded record
// may take a hundred times its bytes. Nothing is kept of EDNS that answers do not depend on, for as long as others are asked.
func readQuestion(b []byte) (*dns.Msg, error) {
	if len(b) < headerSize {
		return nil, os.ErrInvalid
	}
	count := func(at int) uint16 { return binary.BigEndian.Uint16(b[at:]) }
	if count(4) > 1 || count(6) > 0 || count(8) > 0 || count(10) > 1 {
		b = b[:headerSize]
	}
	req := new(dns.Msg)
	if err := req.Unpack(b); err != nil {
		return nil, err
	}
	if req.Response {
		return nil, os.ErrInvalid
	}
	opt := req.IsEdns0()
	req.Extra = nil
	if opt != nil {
		opt.Option = nil
		req.Extra = []dns.RR{opt}
	}
	return req, nil
}

// local answers a question if we can; nil: it is to be passed on.
func (s *Server) local(a *asker, req *dns.Msg) *dns.Msg {
	s.queries.Add(1)
	m, network := refused(req), nowhere
	if m == nil {
		s.mu.RLock()
		m, network = s.names.local(a.ResolverContainer, req)
		s.mu.RUnlock()
	}
	a.count(network)
	if m != nil {
		s.answered.Add(1)
	}
	return m
}

// pass asks others. The answer is nil when the container is no longer served.
func (s *Server) pass(ctx context.Context, c *swarmv1.ResolverContainer, req *dns.Msg, tcp bool) *dns.Msg {
	m, err := s.upstream.ask(ctx, c, req, tcp)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		s.failed.Add(1)
		s.log.DebugContext(ctx, "name servers do not answer", "container", c.Id, "question", req.Question[0].Name, "err", err)
		return reply(req, dns.RcodeServerFailure)
	}
	return m
}
