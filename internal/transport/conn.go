package transport

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"swarm/internal/codec"
)

const (
	// maxMessage limits a gRPC message in both directions, in bytes.
	maxMessage = 16 << 20
	// maxAnswer limits the answer of a manager to a user, in bytes. Such an answer may list every
	// object of the cluster.
	maxAnswer = 256 << 20
	// keepaliveTime is the shortest interval that gRPC allows. It serves to clean up dead
	// connections; the liveness of nodes does not depend on it.
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
	maxBackoff       = time.Second
)

var errConnClosed = errdefs.ErrUnavailable.WithMessage("the connection has been closed by this side")

// Conn is a gRPC client connection that follows its Identity. After a change of the Identity, new
// calls use a new connection with the new certificate and without the backoff of the old one.
// Running calls end on the old connection, which closes after its last call.
type Conn struct {
	id    *Identity
	build func() (*grpc.ClientConn, error)
	// source is the address of this host from which to connect. If it is not valid, the kernel
	// chooses. It is set before the first call.
	source netip.Addr

	mu     sync.Mutex // guards the fields below; not held across I/O
	cur    *identityConn
	closed bool
	all    map[*identityConn]struct{} // cur, and older connections with running calls
}

var _ grpc.ClientConnInterface = (*Conn)(nil)

// identityConn is the gRPC connection for one generation of the identity.
type identityConn struct {
	cc    *grpc.ClientConn
	gen   uint64
	calls int
}

// newConn makes a Conn that calls lookup for the address of every connection attempt. name is the
// name of the peer in error texts.
func newConn(id *Identity, name string, want expectedPeer, lookup func() (string, error), more ...grpc.DialOption) *Conn {
	c := &Conn{id: id, all: map[*identityConn]struct{}{}}
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		addr, err := lookup()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return dialFrom(ctx, c.source, addr)
	}
	options := append(clientOptions(),
		grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(clientCreds{id: id, name: name, want: want}))
	options = append(options, more...)
	authority := want.nodeID // a label for gRPC only: the handshake verifies the node
	if authority == "" {
		authority = name
	}
	c.build = func() (*grpc.ClientConn, error) { return grpc.NewClient("passthrough:///"+authority, options...) }
	return c
}

// clientOptions returns the options that all client connections share.
func clientOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithChainUnaryInterceptor(unaryClientErrors),
		grpc.WithChainStreamInterceptor(streamClientErrors),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage), grpc.ForceCodecV2(codec.Codec{})),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithIdleTimeout(0), // keep idle connections open: the next call starts at once
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: dialTimeout + handshakeTimeout,
		}),
	}
}

// Invoke performs a unary RPC.
func (c *Conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	e, err := c.acquire()
	if err != nil {
		return err
	}
	defer c.release(e)
	return e.cc.Invoke(ctx, method, args, reply, opts...)
}

// NewStream begins a streaming RPC.
func (c *Conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	e, err := c.acquire()
	if err != nil {
		return nil, err
	}
	done := sync.OnceFunc(func() { c.release(e) })
	// Copy opts: append in place could write to the array of the caller.
	opts = append(opts[:len(opts):len(opts)], grpc.OnFinish(func(error) { done() }))
	stream, err := e.cc.NewStream(ctx, desc, method, opts...)
	if err != nil {
		done()
		return nil, err
	}
	return stream, nil
}

// Close closes the connection and ends all of its calls. Later calls fail with
// errdefs.ErrUnavailable.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.closed, c.cur = true, nil
	all := c.all
	c.all = nil
	c.mu.Unlock()
	for e := range all {
		_ = e.cc.Close()
	}
	return nil
}

// acquire returns the connection for the current identity and counts a call on it. The connection
// of an earlier identity is closed at once if it has no calls.
func (c *Conn) acquire() (*identityConn, error) {
	gen := c.id.load().gen
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, errConnClosed
	}
	var unused *grpc.ClientConn
	if c.cur == nil || c.cur.gen < gen {
		cc, err := c.build()
		if err != nil {
			c.mu.Unlock()
			return nil, errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
		if old := c.cur; old != nil && old.calls == 0 {
			unused = old.cc
			delete(c.all, old)
		}
		c.cur = &identityConn{cc: cc, gen: gen}
		c.all[c.cur] = struct{}{}
	}
	e := c.cur
	e.calls++
	c.mu.Unlock()
	if unused != nil {
		_ = unused.Close()
	}
	return e, nil
}

// release ends a call. An old connection is closed after its last call.
func (c *Conn) release(e *identityConn) {
	c.mu.Lock()
	e.calls--
	_, open := c.all[e]
	retire := open && e.calls == 0 && e != c.cur
	if retire {
		delete(c.all, e)
	}
	c.mu.Unlock()
	if retire {
		_ = e.cc.Close()
	}
}

// clientCreds does the TLS handshake of the client as a credential of gRPC, so that the errors of
// the handshake reach the caller.
type clientCreds struct {
	id   *Identity
	name string
	want expectedPeer
}

func (c clientCreds) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, err := clientHandshake(ctx, c.id, raw, c.want)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", c.name, err)
	}
	return conn, conn.info, nil
}

func (clientCreds) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errdefs.ErrNotImplemented.WithMessage("these credentials are for clients")
}

func (clientCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (c clientCreds) Clone() credentials.TransportCredentials { return c }
func (clientCreds) OverrideServerName(string) error           { return nil }
