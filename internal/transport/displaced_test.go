package transport

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
)

// silentConn is a connection on which nothing is sent or received.
type silentConn struct{ net.Conn }

func (silentConn) Close() error         { return nil }
func (silentConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1} }

func quietListener() *Listener {
	return NewListener(ListenerConfig{}, ListenerDeps{Log: slog.New(slog.DiscardHandler)}, &net.TCPAddr{})
}

// A connection that another one evicts leaves all counts at once, because its handshake may end
// before it is closed.
func TestListener_UncountsEvictedConnections(t *testing.T) {
	l := quietListener()
	first := l.track(silentConn{})
	for range DefaultMaxHandshakes/originShare - 1 {
		l.track(silentConn{})
	}
	next := &trackedConn{Conn: silentConn{}, l: l, origin: first.origin}
	l.connsMu.Lock()
	l.conns[next] = admitted{}
	evicted := l.addToPool(l.handshakes, next)
	l.connsMu.Unlock()
	if evicted != first {
		t.Fatal("the oldest connection was not evicted")
	}
	if err := l.count(first, admitted{proto: ProtoGRPC}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the handshake of an evicted connection ends: got %v, want %v", err, net.ErrClosed)
	}
	l.closeEvicted(evicted)
	if l.strangers.size != 0 || len(l.conns) != l.handshakes.size {
		t.Errorf("%d strangers, %d connections, %d handshakes", l.strangers.size, len(l.conns), l.handshakes.size)
	}
}

// The counts stay correct if handshakes end while newer connections evict theirs.
func TestListener_CountsWhileHandshakesEnd(t *testing.T) {
	l := quietListener()
	const many = DefaultMaxHandshakes / originShare
	for range 500 {
		var held []*trackedConn
		for range many {
			held = append(held, l.track(silentConn{}))
		}
		var wg sync.WaitGroup
		for _, c := range held {
			wg.Go(func() { _ = l.count(c, admitted{proto: ProtoGRPC}) })
		}
		for range many {
			l.track(silentConn{})
		}
		wg.Wait()
		l.closeConns()
		if n := len(l.conns) + l.handshakes.size + l.strangers.size; n != 0 {
			t.Fatalf("%d connections are counted after all are closed", n)
		}
	}
}
