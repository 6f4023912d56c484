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

// Address is the address of the name server in every container. It is the same as Docker's, because
// users' configurations contain it.
const Address = "127.0.0.11"

var address = netip.MustParseAddr(Address)

const (
	// The sockets use one of portCount ports from firstPort on. These are above the kernel's
	// ephemeral ports. The sockets do not use port 53, because the container may need it.
	firstPort, portCount = 61000, 4500
	// maxQuery is the maximum size of a query in bytes, over UDP and over TCP.
	maxQuery = 1232
	// tcpIdle is the time after which a TCP connection is closed if the client sends no query or
	// does not read its answer.
	tcpIdle = 10 * time.Second
	// socketErrorPause is the pause after a socket error. Without it, a socket that fails every
	// time would use a whole core.
	socketErrorPause = 10 * time.Millisecond
	// maxStreams and maxForwards limit the TCP connections, and the forwarded UDP queries, of one
	// container.
	maxStreams, maxForwards = 64, 256
	// reservedStreams and reservedForwards are the part of these limits that other containers
	// cannot use up. sharedStreams and sharedForwards limit what all containers together use beyond
	// their reserved parts.
	reservedStreams, reservedForwards = 4, 16
	sharedStreams, sharedForwards     = 256, 1024
)

// quota limits how many of one resource a container uses at the same time.
type quota struct {
	reserved, extra chan struct{}
	shared          chan struct{} // shared by all containers
}

func newQuota(reserved, most int, shared chan struct{}) quota {
	return quota{reserved: make(chan struct{}, reserved), extra: make(chan struct{}, most-reserved), shared: shared}
}

// acquire takes one unit until the caller calls release. ok is false if the container, or all
// containers together, are at the limit.
func (q quota) acquire() (release func(), ok bool) {
	tryAcquire := func(c chan struct{}) bool {
		select {
		case c <- struct{}{}:
			return true
		default:
			return false
		}
	}
	if tryAcquire(q.reserved) {
		return func() { <-q.reserved }, true
	}
	if !tryAcquire(q.extra) {
		return nil, false
	}
	if !tryAcquire(q.shared) {
		<-q.extra
		return nil, false
	}
	return func() { <-q.shared; <-q.extra }, true
}

// container has the sockets and goroutines for one container.
type container struct {
	s   *Server
	id  netns.ID
	cfg atomic.Pointer[containerConfig]
	udp *net.UDPConn
	tcp *net.TCPListener

	// stop cancels queries in progress. wg waits for all goroutines.
	stop context.CancelFunc
	wg   sync.WaitGroup
	// streams limits TCP connections. forwards limits the UDP queries that are forwarded.
	streams, forwards quota
}

func openContainer(ctx context.Context, s *Server, cfg *swarmv1.ResolverContainer) (*container, error) {
	ns, err := netns.Open(cfg.Netns)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	c := &container{
		s: s, id: ns.ID(),
		streams: newQuota(reservedStreams, maxStreams, s.streams), forwards: newQuota(reservedForwards, maxForwards, s.forwards),
	}
	c.cfg.Store(newContainerConfig(cfg, nil))
	if err := ns.Do(func() error { return c.listen(cfg.Id) }); err != nil {
		return nil, err
	}
	if err := redirect(cfg.Netns, c.port()); err != nil {
		return nil, errors.Join(err, c.udp.Close(), c.tcp.Close())
	}
	// ctx ends with the stream of updates, but the container is served for longer.
	ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	c.wg.Go(func() { c.serveUDP(ctx) })
	c.wg.Go(func() { c.serveTCP(ctx) })
	return c, nil
}

// listen binds both sockets to one port. The port derives from the container ID, so after a restart
// the server gets the same port if possible. A client that repeats a query from the same socket
// still reaches it, because the container's connection tracking sends the query to the old port.
func (c *container) listen(id string) error {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	var last error
	for i := range uint32(16) {
		at := netip.AddrPortFrom(address, uint16(firstPort+(h.Sum32()+i*331)%portCount))
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

// usesNamespace reports whether the sockets are in the namespace that is pinned at the path now.
func (c *container) usesNamespace(pin string) bool {
	ns, err := netns.Open(pin)
	if err != nil {
		return false
	}
	defer ns.Close()
	return ns.ID() == c.id
}

// close stops serving the container. Open sockets would keep the namespace alive.
func (c *container) close() {
	c.stop()
	_ = c.udp.Close()
	_ = c.tcp.Close()
	c.wg.Wait()
}

// serveUDP answers queries for names of the cluster in its loop. It forwards each other query in a
// separate goroutine. If the container has too many forwarded queries, it answers SERVFAIL.
func (c *container) serveUDP(ctx context.Context) {
	buf := make([]byte, maxQuery)
	for {
		n, from, err := c.udp.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if pause.For(ctx, socketErrorPause) != nil {
				return
			}
			continue
		}
		req, err := readQuery(buf[:n])
		if err != nil {
			continue
		}
		if m := c.s.local(c.cfg.Load(), req); m != nil {
			c.answerUDP(req, m, from)
			continue
		}
		release, ok := c.forwards.acquire()
		if !ok {
			c.answerUDP(req, reply(req, dns.RcodeServerFailure), from)
			continue
		}
		c.wg.Go(func() {
			defer release()
			if m := c.s.forward(ctx, c.cfg.Load().ResolverContainer, req, false); m != nil {
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
		c.s.log.Debug("cannot send an answer to a container", "container", c.cfg.Load().Id, "err", err)
	}
}

func (c *container) serveTCP(ctx context.Context) {
	for {
		conn, err := c.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if pause.For(ctx, socketErrorPause) != nil {
				return
			}
			continue
		}
		release, ok := c.streams.acquire()
		if !ok {
			conn.Close()
			continue
		}
		c.wg.Go(func() {
			defer release()
			c.serveStream(ctx, conn)
		})
	}
}

// serveStream answers the queries of one TCP connection in order.
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
			m = c.s.forward(ctx, c.cfg.Load().ResolverContainer, req, true)
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
	if n > maxQuery {
		return nil, os.ErrInvalid
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(from, b); err != nil {
		return nil, err
	}
	return readQuery(b)
}

// headerSize is the size of a DNS header in bytes: ID, flags, and the number of records in each of
// the four sections.
const headerSize = 12

// readQuery decodes a client's message. It returns an error if the message is not a query. A valid
// query has one question and at most one more record, for EDNS. If there are more records,
// readQuery decodes only the header, and the query is rejected: a decoded record may use a hundred
// times its encoded size. EDNS options are dropped, because the query stays in memory while it is
// forwarded and no answer depends on them.
func readQuery(b []byte) (*dns.Msg, error) {
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

// local answers a query and counts it. It returns nil if the query must be forwarded.
func (s *Server) local(cfg *containerConfig, req *dns.Msg) *dns.Msg {
	s.queries.Add(1)
	m, network := rejection(req), noNetwork
	if m == nil {
		s.mu.RLock()
		m, network = s.zones.local(cfg.ResolverContainer, req)
		s.mu.RUnlock()
	}
	cfg.count(network)
	if m != nil {
		s.answered.Add(1)
	}
	return m
}

// forward asks the upstream name servers. If they fail, the answer is SERVFAIL. The answer is nil
// if the container is no longer served.
func (s *Server) forward(ctx context.Context, c *swarmv1.ResolverContainer, req *dns.Msg, tcp bool) *dns.Msg {
	m, err := s.upstream.resolve(ctx, c, req, tcp)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		s.failed.Add(1)
		s.log.DebugContext(ctx, "upstream name servers failed: the client gets SERVFAIL", "container", c.Id, "question", req.Question[0].Name, "err", err)
		return reply(req, dns.RcodeServerFailure)
	}
	return m
}
