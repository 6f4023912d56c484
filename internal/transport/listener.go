package transport

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/logsample"
	"swarm/internal/origin"
	"swarm/internal/pause"
)

const (
	// DefaultHandshakeTimeout bounds a handshake from accept to finish.
	DefaultHandshakeTimeout = 10 * time.Second
	// DefaultMaxHandshakes bounds the unfinished handshakes; each holds a goroutine and about 20 KiB.
	DefaultMaxHandshakes = 128
	// DefaultMaxStrangers bounds the connections of callers without a valid certificate; each holds up to 200 KiB. A host
	// that joins needs one for a second.
	DefaultMaxStrangers = 64
	// One origin has at most this part of the handshakes, and of the strangers: half. An origin may
	// be a network in which many hosts join at once, and what others have is theirs whatever the
	// part is: a full pool drops the connections of the largest origin.
	originPart = 2

	// DefaultMaxOfPeer bounds the connections of one certificate's key for one protocol. A node has one for gRPC, one for
	// Raft and a few for blobs with each other node.
	DefaultMaxOfPeer = 256
	// maxOfWorker is DefaultMaxOfPeer for the gRPC of a worker. It has one connection, a second while its certificate or the
	// roots change, and for some seconds those that broke without its server's knowing.
	maxOfWorker = 4
	// maxBlobs is DefaultMaxOfPeer for the blobs of a worker, whose Dialer opens no more; a pull has four. Each that is
	// served has buffers of about half a MiB.
	maxBlobs = 32

	// DefaultUnread is how long a peer may take for what is written to it for gRPC at once, 32 KiB as a rule.
	DefaultUnread = 30 * time.Second

	// strangerBytes is what a caller without a valid certificate may send in the life of its connection, handshake included.
	// A join sends 3 KiB. It bounds what any abuse of TLS, HTTP/2 or gRPC can cost.
	strangerBytes = 16 << 10
	// formerBytes is what a stranger may send besides whose certificate the cluster issued: the hello of a node that is to
	// learn of its removal has up to 256 KiB.
	formerBytes = 512 << 10
)

// ListenerConfig is what can be set of a Listener. The zero value means the defaults.
type ListenerConfig struct {
	HandshakeTimeout time.Duration
	// MaxHandshakes bounds the unfinished handshakes, MaxStrangers the connections without a valid certificate after their
	// handshake. One origin has a part of each; see package origin.
	MaxHandshakes, MaxStrangers int
	// MaxOfPeer bounds the connections of one key for one protocol; a worker has fewer.
	MaxOfPeer int
	// Unread is how long a peer may leave what it is sent by gRPC unread. Then its connection is closed.
	Unread time.Duration
}

func (c ListenerConfig) withDefaults() ListenerConfig {
	if c.HandshakeTimeout <= 0 {
		c.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if c.MaxHandshakes <= 0 {
		c.MaxHandshakes = DefaultMaxHandshakes
	}
	if c.MaxStrangers <= 0 {
		c.MaxStrangers = DefaultMaxStrangers
	}
	if c.MaxOfPeer <= 0 {
		c.MaxOfPeer = DefaultMaxOfPeer
	}
	if c.Unread <= 0 {
		c.Unread = DefaultUnread
	}
	return c
}

// ListenerDeps are what a Listener needs.
type ListenerDeps struct {
	Identity *Identity
	Log      *slog.Logger
	// Admit says whether a peer may speak a protocol (ProtoGRPC, ProtoRaft, ProtoBlob) here now, and how far it is trusted.
	// The Listener asks it after each handshake, and again for every open connection in Review; then AuthInfo.Running is
	// set for those that it must answer without a wait. Nil admits every peer that the handshake accepted, and trusts
	// those with a valid certificate fully.
	Admit func(proto string, who AuthInfo) (Trust, error)
}

// Trust is how much of a listener a peer may have: connections, calls and bytes. What it may call is judged elsewhere.
type Trust uint8

// The kinds of peers, by their limits.
const (
	// Stranger has proven nothing that counts now: it has no certificate, or one that has expired, was replaced or revoked,
	// or is of a node that was removed.
	Stranger Trust = iota
	// Worker is a node of which nothing large is expected. Its host may be in the hands of whoever broke out of a container.
	Worker
	// Full is for managers and users.
	Full
)

// Listener takes the connections of a node's one port, does the TLS handshake, and hands them on by ALPN. Clients that
// stall in the handshake hold up nobody. Callers without a valid certificate share budgets of their own, so that members
// get in whatever strangers do.
type Listener struct {
	cfg  ListenerConfig
	deps ListenerDeps
	said *logsample.Sampler

	addr net.Addr

	mu     sync.Mutex        // guards what follows
	parts  map[string]*queue // by ALPN, or partStrangers; absent while nobody serves it
	closed bool

	connsMu    sync.Mutex            // guards what follows; may be taken under mu
	conns      map[*tracked]admitted // the zero value until the handshake is over
	handshakes *pool
	strangers  *pool
	ofPeer     map[holder]int // how many connections of peers there are that are no strangers
}

// admitted is the peer of an open connection, what it speaks, and how far it was trusted at accept.
type admitted struct {
	proto string
	who   AuthInfo
	trust Trust
}

// holder has a budget of connections. It is a key, and neither a node nor a user: whoever has a former key of one, or a
// revoked credential, takes nothing from the holder of the current one.
type holder struct{ proto, key string }

func (a admitted) holder() holder { return holder{a.proto, string(a.who.Peer.PublicKey())} }

// part is where the connection comes out.
func (a admitted) part() string {
	switch {
	case a.proto == ProtoGRPC && a.trust == Stranger:
		return partStrangers
	case a.proto == ProtoGRPC && a.trust == Worker:
		return partWorkers
	}
	return a.proto
}

// The parts for gRPC with strangers and with workers.
const (
	partStrangers = "strangers"
	partWorkers   = "workers"
)

var (
	errNotVouched = errdefs.ErrPermissionDenied.WithMessage("the cluster does not vouch for the peer's certificate")
	errOtherTrust = errdefs.ErrUnavailable.WithMessage("the peer's standing has changed: it may connect again")
)

var errNotServed = errdefs.ErrUnavailable.WithMessage("what the client asks for is not served here now")

// NewListener makes a Listener. addr is what its parts report as their address.
func NewListener(cfg ListenerConfig, deps ListenerDeps, addr net.Addr) *Listener {
	cfg = cfg.withDefaults()
	return &Listener{
		cfg: cfg, deps: deps, said: logsample.New(deps.Log),
		addr:       addr,
		parts:      map[string]*queue{},
		conns:      map[*tracked]admitted{},
		handshakes: newPool(cfg.MaxHandshakes, originPart),
		strangers:  newPool(cfg.MaxStrangers, originPart),
		ofPeer:     map[holder]int{},
	}
}

// GRPC opens the part where connections for gRPC come out, to be served with ServerOptions: those of peers that are trusted
// fully. Connections for a part that is not open are refused. A part can be opened again, also after its
// Close, as when a node becomes a manager for the second time; the newest one gets the connections.
func (l *Listener) GRPC() net.Listener { return l.open(ProtoGRPC) }

// Workers opens the part where connections for gRPC of workers come out, to be served with WorkerOptions.
func (l *Listener) Workers() net.Listener { return l.open(partWorkers) }

// Strangers opens the part where connections for gRPC of strangers come out, to be served with StrangerOptions.
func (l *Listener) Strangers() net.Listener { return l.open(partStrangers) }

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
			l.said.Log(slog.LevelWarn, "accept "+logsample.Reason(err), "accept", "err", err) // out of file descriptors, mostly: it passes
			if pause.For(ctx, backoff) != nil {
				return nil
			}
			backoff = min(2*backoff, time.Second)
			continue
		}
		backoff = 5 * time.Millisecond
		known := l.track(conn)
		wg.Go(func() { l.shake(ctx, known) })
	}
}

// tracked is a connection that the listener knows of until it is closed.
type tracked struct {
	net.Conn
	l      *Listener
	origin netip.Prefix
	since  time.Time
	// left is how many bytes the caller may still send while it is a stranger.
	left    atomic.Int64
	trusted atomic.Bool
	// dropped is set when the connection is taken out of the listener's counts in favour of another, before it is closed.
	dropped atomic.Bool

	// in is the pool that counts the connection, nil when none does; place is where. Guarded by the listener's connsMu.
	in    *pool
	place *list.Element
}

// track takes in a new connection, and drops another when there are too many unfinished handshakes.
func (l *Listener) track(c net.Conn) *tracked {
	t := &tracked{Conn: c, l: l, origin: origin.Of(c.RemoteAddr()), since: time.Now()}
	t.left.Store(strangerBytes)
	l.connsMu.Lock()
	l.conns[t] = admitted{}
	dropped := l.crowd(l.handshakes, t)
	l.connsMu.Unlock()
	l.drop(dropped)
	return t
}

// crowd puts a connection into a pool and returns the one that must go for it, nil if none. That one is in no count from
// here on: its handshake may end at this moment, and must find it gone. The caller holds connsMu, and calls drop after.
func (l *Listener) crowd(p *pool, t *tracked) (dropped *tracked) {
	if dropped = p.add(t); dropped != nil {
		dropped.dropped.Store(true)
		l.forget(dropped)
	}
	return dropped
}

// drop closes a connection that crowd returned. Nil is no error.
func (l *Listener) drop(t *tracked) {
	if t == nil {
		return
	}
	_ = t.Close()
	l.said.Log(slog.LevelWarn, "crowded", "connection refused", "remote", t.RemoteAddr().String(), "err", errCrowded)
}

// Read implements net.Conn.
func (t *tracked) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if t.trusted.Load() || t.left.Add(-int64(n)) >= 0 {
		return n, err
	}
	return 0, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("a caller without a certificate sent more than %d bytes", strangerBytes))
}

// Close implements net.Conn.
func (t *tracked) Close() error {
	t.l.connsMu.Lock()
	t.l.forget(t)
	t.l.connsMu.Unlock()
	return t.Conn.Close()
}

// forget takes a connection out of all counts. The caller holds connsMu.
func (l *Listener) forget(t *tracked) {
	t.in.remove(t)
	a, open := l.conns[t]
	delete(l.conns, t)
	if !open || a.trust == Stranger {
		return
	}
	of := a.holder()
	if l.ofPeer[of]--; l.ofPeer[of] == 0 {
		delete(l.ofPeer, of)
	}
}

// admit asks Admit about the peer of a connection, and notes the peer for Review. It asks again thereafter, so that no
// change of membership falls between the two. The result says how far the peer is trusted.
func (l *Listener) admit(conn *tracked, a admitted) (admitted, error) {
	trust, err := l.judge(a)
	if err != nil {
		return a, err
	}
	a.trust = trust
	if err := l.note(conn, a); err != nil {
		return a, err
	}
	return a, l.judgeAgain(a)
}

// note counts a connection after its handshake: for its peer's key, or among the strangers.
func (l *Listener) note(conn *tracked, a admitted) error {
	l.connsMu.Lock()
	if _, open := l.conns[conn]; !open {
		l.connsMu.Unlock()
		return net.ErrClosed
	}
	most := l.cfg.MaxOfPeer
	switch {
	case a.part() == partWorkers:
		most = min(most, maxOfWorker)
	case a.trust == Worker:
		most = min(most, maxBlobs)
	}
	var dropped *tracked
	if of := a.holder(); a.trust == Stranger {
		conn.in.remove(conn)
		dropped = l.crowd(l.strangers, conn)
		if !a.who.Anonymous() {
			conn.left.Add(formerBytes)
		}
	} else if l.ofPeer[of] >= most {
		l.connsMu.Unlock()
		return errTooMany
	} else {
		conn.in.remove(conn)
		l.ofPeer[of]++
		conn.trusted.Store(true)
	}
	l.conns[conn] = a
	l.connsMu.Unlock()
	l.drop(dropped)
	return nil
}

// judge asks Admit. Without a valid certificate a peer is a stranger in any case, and strangers speak gRPC alone.
func (l *Listener) judge(a admitted) (Trust, error) {
	trust := Full
	if l.deps.Admit != nil {
		var err error
		if trust, err = l.deps.Admit(a.proto, a.who); err != nil {
			return Stranger, err
		}
	}
	if a.who.Anonymous() || a.who.Expired(l.deps.Identity.now()) {
		trust = Stranger
	}
	if trust == Stranger && a.proto != ProtoGRPC {
		return Stranger, errNotVouched
	}
	return trust, nil
}

// judgeAgain asks Admit about a connection that was admitted. An error means that it must end: the peer may not have it any
// more, or comes back with other limits. The key of a node's connection for gRPC counts as it was at accept. One for blobs is
// opened again at little cost.
func (l *Listener) judgeAgain(a admitted) error {
	a.who.Running = a.proto == ProtoGRPC && (a.trust != Stranger || a.who.User() != "")
	trust, err := l.judge(a)
	now := a
	if now.trust = trust; err == nil && now.part() != a.part() {
		return errOtherTrust
	}
	return err
}

// Review asks Admit again about the peer of every open connection. It closes those that Admit refuses, and those for gRPC
// whose peer Admit now trusts differently. Call it when a membership, a role or a credential has changed.
func (l *Listener) Review() {
	l.connsMu.Lock()
	open := maps.Clone(l.conns)
	l.connsMu.Unlock()
	for conn, a := range open {
		if a.proto == "" {
			continue // still in its handshake
		}
		if err := l.judgeAgain(a); err != nil {
			_ = conn.Close()
			l.said.Log(slog.LevelInfo, "closed "+a.who.String()+" "+a.proto, "connection closed", "peer", a.who.String(), "protocol", a.proto, "err", err)
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

// shake does one handshake and hands the connection on.
func (l *Listener) shake(ctx context.Context, raw *tracked) {
	conn := tls.Server(raw, &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: l.deps.Identity.serverConfig})
	hctx, cancel := context.WithTimeout(ctx, l.cfg.HandshakeTimeout)
	err := conn.HandshakeContext(hctx)
	cancel()
	if err == nil { // a server that does not accept for that long is as good as absent
		hctx, cancel := context.WithTimeout(ctx, l.cfg.HandshakeTimeout)
		err = l.handOn(hctx, raw, conn)
		cancel()
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() == nil && !raw.dropped.Load() {
			l.said.Log(slog.LevelInfo, raw.origin.String()+" "+kindOf(err), "connection refused", "remote", raw.RemoteAddr().String(), "err", err)
		}
	}
}

// kindOf is the reason of a refusal without what differs from one attempt to the next, or is of the caller's choice, such as
// the versions of TLS that it offers.
func kindOf(err error) string {
	reason := logsample.Reason(err)
	if i := strings.IndexAny(reason, "[0123456789"); i > 0 {
		reason = reason[:i]
	}
	return reason
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
	// The handshake accepted the peer; this reads who it is, against roots that may be newer by now.
	now := l.deps.Identity.now()
	p, err := judgeClient(cs, l.deps.Identity.Bundle(), now)
	if err != nil {
		return err
	}
	peer := secured(conn, p)
	a, err := l.admit(raw, admitted{proto: cs.NegotiatedProtocol, who: peer.info})
	if err != nil {
		return err
	}
	to := l.part(a.part())
	if to == nil {
		return errNotServed
	}
	peer.closeAtExpiry(now)
	if a.proto == ProtoGRPC { // Raft and HTTP have deadlines of their own.
		peer.unread = l.cfg.Unread
	}
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
