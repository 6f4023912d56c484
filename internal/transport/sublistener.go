package transport

import (
	"context"
	"net"
	"sync"

	"github.com/containerd/errdefs"
)

// The names of the sub-listeners for the gRPC connections of strangers and of workers. The other
// sub-listeners have the name of their ALPN protocol.
const (
	subStrangers = "strangers"
	subWorkers   = "workers"
)

var errNotServed = errdefs.ErrUnavailable.WithMessage("this node does not serve the requested protocol now")

// GRPC opens the sub-listener for gRPC connections of peers with Full trust. Serve it with
// ServerOptions. The Listener refuses connections for a sub-listener that is not open. A second
// call of GRPC closes the first sub-listener and opens a new one. A node does this when it becomes
// a manager for the second time.
func (l *Listener) GRPC() net.Listener { return l.open(ProtoGRPC) }

// Workers opens the sub-listener for gRPC connections of workers. Serve it with WorkerOptions. In
// all other respects it is like GRPC.
func (l *Listener) Workers() net.Listener { return l.open(subWorkers) }

// Strangers opens the sub-listener for gRPC connections of strangers. Serve it with
// StrangerOptions. In all other respects it is like GRPC.
func (l *Listener) Strangers() net.Listener { return l.open(subStrangers) }

// Raft opens the sub-listener for Raft connections. PeerOf names the node of a connection. In all
// other respects it is like GRPC.
func (l *Listener) Raft() net.Listener { return l.open(ProtoRaft) }

// Blob opens the sub-listener for connections to the blob server. PeerOf names the node of a
// connection. In all other respects it is like GRPC.
func (l *Listener) Blob() net.Listener { return l.open(ProtoBlob) }

func (l *Listener) open(name string) *subListener {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &subListener{addr: l.addr, conns: make(chan net.Conn), closed: make(chan struct{})}
	if l.closed {
		_ = s.Close()
		return s
	}
	if old := l.subs[name]; old != nil {
		_ = old.Close()
	}
	l.subs[name] = s
	return s
}

func (l *Listener) sub(name string) *subListener {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.subs[name]
}

func (l *Listener) closeSubs() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, s := range l.subs {
		_ = s.Close()
	}
}

// subListener is a net.Listener whose connections come from put.
type subListener struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// put waits until a server accepts the connection, the sub-listener is closed, or ctx ends.
func (s *subListener) put(ctx context.Context, c net.Conn) error {
	select {
	case s.conns <- c:
		return nil
	case <-s.closed:
		return errNotServed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *subListener) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *subListener) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *subListener) Addr() net.Addr { return s.addr }
