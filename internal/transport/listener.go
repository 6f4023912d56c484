package transport

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/pause"
)

const (
	// DefaultHandshakeTimeout bounds a handshake from accept to finish.
	DefaultHandshakeTimeout = 10 * time.Second
	// DefaultMaxHandshakes bounds the unfinished handshakes; each holds a goroutine and about 20 KiB.
	DefaultMaxHandshakes = 512

	// stalledAfter is when an unfinished handshake may be dropped to make room: far more than one needs, also on a busy
	// machine with many waiting, and far less than a client that never speaks would take.
	stalledAfter = 2 * time.Second
	makeRoomTick = 100 * time.Millisecond
)

// ListenerConfig is what can be set of a Listener. The zero value means the defaults.
type ListenerConfig struct {
	HandshakeTimeout time.Duration
	MaxHandshakes    int
}

// ListenerDeps are what a Listener needs.
type ListenerDeps struct {
	Identity *Identity
	Log      *slog.Logger
	// Admit says whether a peer may speak a protocol (ProtoGRPC, ProtoRaft, ProtoBlob) here now. The Listener asks it after
	// each handshake, and again for every open connection in Review. It must not block. Nil admits every peer that the
	// handshake accepted.
	Admit func(proto string, who AuthInfo) error
}

// Listener takes the connections of a node's one port, does the TLS handshake, and hands them on by ALPN. Clients that
// stall in the handshake hold up nobody.
type Listener struct {
	cfg  ListenerConfig
	deps ListenerDeps

	addr  net.Addr
	slots chan struct{}

	mu      sync.Mutex        // guards what follows
	pending *list.List        // of *handshake, oldest first
	parts   map[string]*queue // by ALPN; absent while nobody serves it
	closed  bool

	connsMu sync.Mutex            // guards conns; may be taken under mu
	conns   map[*tracked]admitted // the zero value until the handshake is over
}

// admitted is the peer of an open connection and what it speaks.
type admitted struct {
	proto string
	who   AuthInfo
}

var errNotServed = errdefs.ErrUnavailable.WithMessage("what the client asks for is not served here now")

type handshake struct {
	conn  net.Conn
	since time.Time
}

// NewListener makes a Listener. addr is what its parts report as their address.
func NewListener(cfg ListenerConfig, deps ListenerDeps, addr net.Addr) *Listener {
	if cfg.HandshakeTimeout <= 0 {
		cfg.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if cfg.MaxHandshakes <= 0 {
		cfg.MaxHandshakes = DefaultMaxHandshakes
	}
	return &Listener{
		cfg: cfg, deps: deps,
		addr:    addr,
		slots:   make(chan struct{}, cfg.MaxHandshakes),
		pending: list.New(),
		parts:   map[string]*queue{},
		conns:   map[*tracked]admitted{},
	}
}

// GRPC opens the part where connections for gRPC come out, to be served with ServerOptions. Peers may be anonymous or
// expired. Connections for a part that is not open are refused. A part can be opened again, also after its Close, as
// when a node becomes a manager for the second time; the newest one gets the connections.
func (l *Listener) GRPC() net.Listener { return l.open(ProtoGRPC) }

// Raft opens the part where connections for Raft come out, as GRPC does; PeerOf names the node.
func (l *Listener) Raft() net.Listener { return l.open(ProtoRaft) }

// Blob opens the part where connections for the blob server come out, as GRPC does; PeerOf names the node.
func (l *Listener) Blob() net.Listener { return l.open(ProtoBlob) }

func (l *Listener) open(proto string) *queue {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := &queue{addr: l.addr, conns: make(chan net.Conn), closed: make(chan struct{})}
	if l.closed {
		_ = q.Close()
		return q
	}
	if old := l.parts[proto]; old != nil {
		_ = old.Close()
	}
	l.parts[proto] = q
	return q
}

func (l *Listener) part(proto string) *queue {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.parts[proto]
}

func (l *Listener) closeParts() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, q := range l.parts {
		_ = q.Close()
	}
}

// Run accepts from ln until ctx ends (it then returns nil) or ln fails. It closes ln and the parts, waits for its
// handshakes, and closes every connection that it handed on: those who serve them may outlive the membership. It runs once.
func (l *Listener) Run(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer func() {
		cancel()
		stop()
		_ = ln.Close()
		wg.Wait()
		l.closeParts()
		l.closeConns()
	}()
	backoff := 5 * time.Millisecond
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			l.deps.Log.Warn("accept", "err", err) // out of file descriptors, mostly: it passes
			if pause.For(ctx, backoff) != nil {
				return nil
			}
			backoff = min(2*backoff, time.Second)
			continue
		}
		backoff = 5 * time.Millisecond
		if !l.acquire(ctx) {
			_ = conn.Close()
			return nil
		}
		known := l.track(conn)
		wg.Go(func() { l.shake(ctx, known) })
	}
}

// tracked is a connection that the listener knows of until it is closed.
type tracked struct {
	net.Conn
	l *Listener
}

func (l *Listener) track(c net.Conn) *tracked {
	t := &tracked{c, l}
	l.connsMu.Lock()
	defer l.connsMu.Unlock()
	l.conns[t] = admitted{}
	return t
}

func (t *tracked) Close() error {
	t.l.connsMu.Lock()
	delete(t.l.conns, t)
	t.l.connsMu.Unlock()
	return t.Conn.Close()
}

// admit asks Admit about the peer of a connection, and notes the peer for Review. It notes first: a Review that runs at
// the same time then judges the connection too, and no change of membership falls between the two.
func (l *Listener) admit(conn *tracked, a admitted) error {
	l.connsMu.Lock()
	if _, open := l.conns[conn]; open {
		l.conns[conn] = a
	}
	l.connsMu.Unlock()
	return l.judge(a)
}

func (l *Listener) judge(a admitted) error {
	if l.deps.Admit == nil {
		return nil
	}
	return l.deps.Admit(a.proto, a.who)
}

// Review asks Admit again about the peer of every open connection and closes those that it refuses. Call it when a
// membership, a role or a credential has changed.
func (l *Listener) Review() {
	l.connsMu.Lock()
	open := maps.Clone(l.conns)
	l.connsMu.Unlock()
	for conn, a := range open {
		if a.proto == "" {
			continue // still in its handshake
		}
		a.who.Running = a.proto == ProtoGRPC // a connection for blobs is opened again at little cost
		if err := l.judge(a); err != nil {
			_ = conn.Close()
			l.deps.Log.Info("connection closed", "peer", a.who.String(), "protocol", a.proto, "err", err)
		}
	}
}

func (l *Listener) closeConns() {
	l.connsMu.Lock()
	open := slices.Collect(maps.Keys(l.conns))
	l.connsMu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}

// acquire takes a slot for a handshake. When there is none it drops those that have stalled until one is free.
func (l *Listener) acquire(ctx context.Context) bool {
	for {
		select {
		case l.slots <- struct{}{}:
			return true
		default:
		}
		l.dropStalled()
		timer := time.NewTimer(makeRoomTick)
		select {
		case l.slots <- struct{}{}:
			timer.Stop()
			return true
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

func (l *Listener) dropStalled() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := l.pending.Front(); e != nil; e = e.Next() {
		h := e.Value.(*handshake)
		if time.Since(h.since) < stalledAfter {
			return
		}
		_ = h.conn.Close() // its goroutine sees the error, and frees the slot
	}
}

// shake does one handshake and hands the connection on. It frees the slot of acquire as soon as the handshake is over.
func (l *Listener) shake(ctx context.Context, raw *tracked) {
	l.mu.Lock()
	entry := l.pending.PushBack(&handshake{conn: raw, since: time.Now()})
	l.mu.Unlock()

	conn := tls.Server(raw, &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: l.deps.Identity.serverConfig})
	hctx, cancel := context.WithTimeout(ctx, l.cfg.HandshakeTimeout)
	err := conn.HandshakeContext(hctx)
	cancel()

	l.mu.Lock()
	l.pending.Remove(entry)
	l.mu.Unlock()
	<-l.slots

	if err == nil { // a server that does not accept for that long is as good as absent
		hctx, cancel := context.WithTimeout(ctx, l.cfg.HandshakeTimeout)
		err = l.handOn(hctx, raw, conn)
		cancel()
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() == nil {
			l.deps.Log.Info("connection refused", "remote", raw.RemoteAddr().String(), "err", err)
		}
	}
}

// handOn gives a connection to the part that its ALPN names. On an error the caller closes it.
func (l *Listener) handOn(ctx context.Context, raw *tracked, conn *tls.Conn) error {
	cs := conn.ConnectionState()
	switch cs.NegotiatedProtocol {
	case "":
		return errdefs.ErrInvalidArgument.WithMessage("the client names no protocol that is spoken here")
	case protoRoots: // the joiner has what it came for
		return conn.Close()
	}
	to := l.part(cs.NegotiatedProtocol)
	if to == nil {
		return errNotServed
	}
	// The handshake accepted the peer; this reads who it is, against roots that may be newer by now.
	p, err := judgeClient(cs, l.deps.Identity.Bundle(), l.deps.Identity.now())
	if err != nil {
		return err
	}
	peer := secured(conn, p)
	if err := l.admit(raw, admitted{cs.NegotiatedProtocol, peer.info}); err != nil {
		return err
	}
	peer.closeAtExpiry(l.deps.Identity.now())
	return to.put(ctx, peer)
}

// queue is a net.Listener fed by put.
type queue struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// put waits until someone accepts the connection.
func (q *queue) put(ctx context.Context, c net.Conn) error {
	select {
	case q.conns <- c:
		return nil
	case <-q.closed:
		return errNotServed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.closed) })
	return nil
}

func (q *queue) Addr() net.Addr { return q.addr }
