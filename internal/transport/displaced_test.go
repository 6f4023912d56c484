package transport

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
)

// silent is a connection on which nothing happens.
type silent struct{ net.Conn }

func (silent) Close() error         { return nil }
func (silent) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1} }

func quietListener() *Listener {
	return NewListener(ListenerConfig{}, ListenerDeps{Log: slog.New(slog.DiscardHandler)}, &net.TCPAddr{})
}

// A connection that another displaces is gone at once: its handshake may end before it is closed.
func TestListener_ForgetsTheDisplacedAtOnce(t *testing.T) {
	l := quietListener()
	first := l.track(silent{})
	for range DefaultMaxHandshakes/originPart - 1 {
		l.track(silent{})
	}
	next := &tracked{Conn: silent{}, l: l, origin: first.origin}
	l.connsMu.Lock()
	l.conns[next] = admitted{}
	dropped := l.crowd(l.handshakes, next)
	l.connsMu.Unlock()
	if dropped != first {
		t.Fatal("the oldest connection was not displaced")
	}
	if err := l.note(first, admitted{proto: ProtoGRPC}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the handshake of a displaced connection ends: got %v, want %v", err, net.ErrClosed)
	}
	l.drop(dropped)
	if l.strangers.size != 0 || len(l.conns) != l.handshakes.size {
		t.Errorf("%d strangers, %d connections, %d handshakes", l.strangers.size, len(l.conns), l.handshakes.size)
	}
}

// Handshakes end while newer connections displace theirs.
func TestListener_CountsWhileHandshakesEnd(t *testing.T) {
	l := quietListener()
	const many = DefaultMaxHandshakes / originPart
	for range 500 {
		var held []*tracked
		for range many {
			held = append(held, l.track(silent{}))
		}
		var wg sync.WaitGroup
		for _, c := range held {
			wg.Go(func() { _ = l.note(c, admitted{proto: ProtoGRPC}) })
		}
		for range many {
			l.track(silent{})
		}
		wg.Wait()
		l.closeConns()
		if n := len(l.conns) + l.handshakes.size + l.strangers.size; n != 0 {
			t.Fatalf("%d connections are counted after all are closed", n)
		}
	}
}
