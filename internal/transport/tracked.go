package transport

import (
	"container/list"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/origin"
)

// trackedConn is a connection that the Listener counts until it is closed.
type trackedConn struct {
	net.Conn
	l      *Listener
	origin netip.Prefix
	since  time.Time
	// bytesLeft is the number of bytes that the caller may still send while it is a stranger.
	bytesLeft atomic.Int64
	trusted   atomic.Bool
	// evicted is set when the Listener stops counting the connection in favour of another one,
	// before it is closed.
	evicted atomic.Bool

	// pool is the pool that counts the connection, or nil. element is its place there. connsMu of
	// the Listener guards both.
	pool    *pool
	element *list.Element
}

// track counts a new connection, and closes another one if there are too many unfinished
// handshakes.
func (l *Listener) track(c net.Conn) *trackedConn {
	t := &trackedConn{Conn: c, l: l, origin: origin.Of(c.RemoteAddr()), since: time.Now()}
	t.bytesLeft.Store(strangerBytes)
	l.connsMu.Lock()
	l.conns[t] = admitted{}
	evicted := l.addToPool(l.handshakes, t)
	l.connsMu.Unlock()
	l.closeEvicted(evicted)
	return t
}

// addToPool adds a connection to a pool and returns the connection that must be closed for it, or
// nil. addToPool removes the evicted connection from all counts: if its handshake ends before it is
// closed, count then returns net.ErrClosed for it. The caller holds connsMu, and calls closeEvicted
// after it has released connsMu.
func (l *Listener) addToPool(p *pool, t *trackedConn) (evicted *trackedConn) {
	if evicted = p.add(t); evicted != nil {
		evicted.evicted.Store(true)
		l.uncount(evicted)
	}
	return evicted
}

// closeEvicted closes a connection that addToPool returned. t may be nil.
func (l *Listener) closeEvicted(t *trackedConn) {
	if t == nil {
		return
	}
	_ = t.Close()
	l.log.Log(slog.LevelWarn, "evicted", "connection refused", "remote", t.RemoteAddr().String(), "err", errEvicted)
}

// Read implements net.Conn. It fails once a stranger has sent more bytes than it may.
func (t *trackedConn) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if t.trusted.Load() || t.bytesLeft.Add(-int64(n)) >= 0 {
		return n, err
	}
	return 0, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("a caller without a certificate sent more than %d bytes", strangerBytes))
}

// Close implements net.Conn.
func (t *trackedConn) Close() error {
	t.l.connsMu.Lock()
	t.l.uncount(t)
	t.l.connsMu.Unlock()
	return t.Conn.Close()
}

// uncount removes a connection from all counts. The caller holds connsMu.
func (l *Listener) uncount(t *trackedConn) {
	t.pool.remove(t)
	a, open := l.conns[t]
	delete(l.conns, t)
	if !open || a.trust == Stranger {
		return
	}
	key := a.peerKey()
	if l.perKey[key]--; l.perKey[key] == 0 {
		delete(l.perKey, key)
	}
}

// count counts a connection whose handshake is over: for the key of its peer, or as a stranger. It
// returns net.ErrClosed if the connection was evicted or closed in the meantime, and errTooMany if
// the key has too many connections.
func (l *Listener) count(conn *trackedConn, a admitted) error {
	l.connsMu.Lock()
	if _, open := l.conns[conn]; !open {
		l.connsMu.Unlock()
		return net.ErrClosed
	}
	most := l.cfg.MaxPerKey
	switch {
	case a.subName() == subWorkers:
		most = min(most, maxWorkerConns)
	case a.trust == Worker:
		most = min(most, maxBlobConns)
	}
	var evicted *trackedConn
	if key := a.peerKey(); a.trust == Stranger {
		conn.pool.remove(conn)
		evicted = l.addToPool(l.strangers, conn)
		if !a.who.Anonymous() {
			conn.bytesLeft.Add(formerMemberBytes)
		}
	} else if l.perKey[key] >= most {
		l.connsMu.Unlock()
		return errTooMany
	} else {
		conn.pool.remove(conn)
		l.perKey[key]++
		conn.trusted.Store(true)
	}
	l.conns[conn] = a
	l.connsMu.Unlock()
	l.closeEvicted(evicted)
	return nil
}

func (l *Listener) closeConns() {
	l.connsMu.Lock()
	open := slices.Collect(maps.Keys(l.conns))
	l.connsMu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}
