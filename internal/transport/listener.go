package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/logsample"
	"swarm/internal/pause"
)

const (
	// DefaultHandshakeTimeout limits the time from accept to the end of the handshake.
	DefaultHandshakeTimeout = 10 * time.Second
	// DefaultMaxHandshakes limits the unfinished handshakes. Each holds a goroutine and about 20
	// KiB.
	DefaultMaxHandshakes = 128
	// DefaultMaxStrangers limits the connections of callers without a valid certificate. Each holds
	// up to 200 KiB. A host that joins needs one for a second.
	DefaultMaxStrangers = 64
	// originShare is the divisor of MaxHandshakes and MaxStrangers that gives the limit of one
	// origin: half of each. An origin may be a network in which many hosts join at once. The share
	// protects nobody else: a full pool closes the connections of the largest origin, so other
	// origins keep theirs whatever the share is.
	originShare = 2

	// DefaultMaxPerKey limits the connections of one certificate key for one protocol. Towards each
	// other node, a node has one connection for gRPC, one for Raft and a few for blobs.
	DefaultMaxPerKey = 256
	// maxWorkerConns limits the gRPC connections of one worker key, in place of MaxPerKey. A worker
	// has one connection, a second while its certificate or the roots change, and for some seconds
	// the broken ones that this node still counts.
	maxWorkerConns = 4
	// maxBlobConns limits the blob connections of one worker key, in place of MaxPerKey. The Dialer
	// of a worker opens no more; a pull uses four. The buffers of a connection that is served take
	// about half a MiB.
	maxBlobConns = 32

	// DefaultWriteTimeout limits the time that one write to a peer for gRPC may take. A write has
	// 32 KiB as a rule.
	DefaultWriteTimeout = 30 * time.Second

	// strangerBytes limits the bytes that a caller without a valid certificate may send during its
	// connection, handshake included. A join sends 3 KiB. The limit bounds the cost of any abuse of
	// TLS, HTTP/2 or gRPC.
	strangerBytes = 16 << 10
	// formerMemberBytes is added to strangerBytes for a stranger that presents a certificate of
	// this cluster. A node that is about to learn of its removal sends a hello of up to 256 KiB.
	formerMemberBytes = 512 << 10
)

// ListenerConfig holds the limits of a Listener. A field that is not positive has its default.
type ListenerConfig struct {
	// HandshakeTimeout limits the time from accept to the end of the handshake.
	HandshakeTimeout time.Duration
	// MaxHandshakes limits the unfinished handshakes. MaxStrangers limits the connections without a
	// valid certificate after their handshake. One origin (see package origin) may have half of
	// each.
	MaxHandshakes, MaxStrangers int
	// MaxPerKey limits the connections of one certificate key for one protocol. Workers have lower
	// limits.
	MaxPerKey int
	// WriteTimeout limits the time that one write for gRPC may take. A peer that does not read for
	// that long loses its connection.
	WriteTimeout time.Duration
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
	if c.MaxPerKey <= 0 {
		c.MaxPerKey = DefaultMaxPerKey
	}
	if c.WriteTimeout <= 0 {
		c.WriteTimeout = DefaultWriteTimeout
	}
	return c
}

// ListenerDeps holds the objects that a Listener uses.
type ListenerDeps struct {
	Identity *Identity
	Log      *slog.Logger
	// Admit decides whether a peer may use a protocol (ProtoGRPC, ProtoRaft, ProtoBlob) now, and
	// how far it is trusted. An error refuses the peer. The Listener calls Admit after each
	// handshake, and again for every open connection in Review. Admit must answer without waiting
	// if AuthInfo.Established is set. If Admit is nil, every peer that passed the handshake is
	// admitted, and a peer with a valid certificate gets Full trust.
	Admit func(proto string, who AuthInfo) (Trust, error)
}

// Listener accepts the connections to the one port of a node, does the TLS handshake, and passes
// each connection to the sub-listener for its ALPN protocol. A client that stalls in the handshake
// delays no other client. Callers without a valid certificate share their own limits, so they
// cannot keep members from connecting.
type Listener struct {
	cfg  ListenerConfig
	deps ListenerDeps
	log  *logsample.Sampler

	addr net.Addr

	mu     sync.Mutex              // guards subs and closed
	subs   map[string]*subListener // by ALPN, subStrangers or subWorkers; absent until it is opened
	closed bool

	connsMu    sync.Mutex                // guards the fields below; may be locked while mu is held
	conns      map[*trackedConn]admitted // the value is zero until the handshake is over
	handshakes *pool
	strangers  *pool
	perKey     map[peerKey]int // the number of open connections, strangers not counted
}

// NewListener makes a Listener. addr is the address that its sub-listeners report.
func NewListener(cfg ListenerConfig, deps ListenerDeps, addr net.Addr) *Listener {
	cfg = cfg.withDefaults()
	return &Listener{
		cfg: cfg, deps: deps, log: logsample.New(deps.Log),
		addr:       addr,
		subs:       map[string]*subListener{},
		conns:      map[*trackedConn]admitted{},
		handshakes: newPool(cfg.MaxHandshakes, originShare),
		strangers:  newPool(cfg.MaxStrangers, originShare),
		perKey:     map[peerKey]int{},
	}
}

// Run accepts connections from ln until ctx ends or ln fails. It returns nil if ctx ended. Before
// it returns, it closes ln and the sub-listeners, waits for the handshakes, and closes every
// connection that it passed on, because the servers of those connections may outlive the membership
// of the node. Call it once.
func (l *Listener) Run(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer func() {
		cancel()
		stop()
		_ = ln.Close()
		wg.Wait()
		l.closeSubs()
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
			// The usual cause is a lack of file descriptors, which is transient.
			l.log.Log(slog.LevelWarn, "accept "+logsample.Reason(err), "cannot accept a connection, trying again", "err", err)
			if pause.For(ctx, backoff) != nil {
				return nil
			}
			backoff = min(2*backoff, time.Second)
			continue
		}
		backoff = 5 * time.Millisecond
		tracked := l.track(conn)
		wg.Go(func() { l.serveConn(ctx, tracked) })
	}
}

// serveConn does one handshake and passes the connection on.
func (l *Listener) serveConn(ctx context.Context, raw *trackedConn) {
	conn := tls.Server(raw, &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: l.deps.Identity.serverConfig})
	hctx, cancel := context.WithTimeout(ctx, l.cfg.HandshakeTimeout)
	err := conn.HandshakeContext(hctx)
	cancel()
	if err == nil { // a server that does not accept within the timeout counts as absent
		hctx, cancel := context.WithTimeout(ctx, l.cfg.HandshakeTimeout)
		err = l.deliver(hctx, raw, conn)
		cancel()
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() == nil && !raw.evicted.Load() {
			l.log.Log(slog.LevelInfo, raw.origin.String()+" "+refusalKind(err), "connection refused", "remote", raw.RemoteAddr().String(), "err", err)
		}
	}
}

// refusalKind returns the reason of a refusal, cut before the first digit or bracket. The rest
// differs from one attempt to the next, or is chosen by the caller, such as the TLS versions that
// it offers, and would defeat the sampling of logs.
func refusalKind(err error) string {
	reason := logsample.Reason(err)
	if i := strings.IndexAny(reason, "[0123456789"); i > 0 {
		reason = reason[:i]
	}
	return reason
}

// deliver passes a connection to the sub-listener for its ALPN protocol. The caller closes the
// connection on an error.
func (l *Listener) deliver(ctx context.Context, raw *trackedConn, conn *tls.Conn) error {
	cs := conn.ConnectionState()
	switch cs.NegotiatedProtocol {
	case "":
		return errdefs.ErrInvalidArgument.WithMessage("the client offers no protocol that this node speaks")
	case protoRoots: // the handshake has already given the roots to the joiner
		return conn.Close()
	}
	// The handshake has accepted the peer. This second check reads the identity of the peer, and
	// uses roots that may be newer.
	now := l.deps.Identity.now()
	p, err := verifyClient(cs, l.deps.Identity.Bundle(), now)
	if err != nil {
		return err
	}
	peer := newPeerConn(conn, p)
	a, err := l.admit(raw, admitted{proto: cs.NegotiatedProtocol, who: peer.info})
	if err != nil {
		return err
	}
	to := l.sub(a.subName())
	if to == nil {
		return errNotServed
	}
	peer.closeAtExpiry(now)
	if a.proto == ProtoGRPC { // Raft and HTTP set their own deadlines
		peer.writeTimeout = l.cfg.WriteTimeout
	}
	return to.put(ctx, peer)
}
