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
)

const (
	// maxMessage bounds a gRPC message, both ways.
	maxMessage = 16 << 20
	// maxAnswer bounds a manager's answer to a user, which may list all that the cluster has.
	maxAnswer = 256 << 20
	// keepaliveTime is the shortest that gRPC allows; liveness does not rest on it, only the clean-up of dead connections.
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
	maxBackoff       = time.Second
)

var errConnClosed = errdefs.ErrUnavailable.WithMessage("the connection has been closed by this side")

// Conn is a gRPC client connection that follows its Identity: once that changes, new calls go through a new connection
// with the new certificate and a fresh backoff, while calls under way end on the old one, which closes after the last.
type Conn struct {
	id    *Identity
	build func() (*grpc.ClientConn, error)
	// source is the address of this host to connect by; not valid: the kernel chooses. Set before the first call.
	source netip.Addr

	mu     sync.Mutex // guards what follows; not held across I/O
	cur    *era
	closed bool
	all    map[*era]struct{} // cur and those that still have calls
}

var _ grpc.ClientConnInterface = (*Conn)(nil)

// era is the connection of one state of the identity.
type era struct {
	cc    *grpc.ClientConn
	gen   uint64
	calls int
}

// newConn makes a Conn whose every attempt to connect asks lookup. name stands in messages.
func newConn(id *Identity, name string, want wanted, lookup func() (string, error), more ...grpc.DialOption) *Conn {
	c := &Conn{id: id, all: map[*era]struct{}{}}
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
	authority := want.nodeID // only a label: the handshake verifies the node
	if authority == "" {
		authority = name
	}
	c.build = func() (*grpc.ClientConn, error) { return grpc.NewClient("passthrough:///"+authority, options...) }
	return c
}

// clientOptions are those of every connection.
func clientOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithChainUnaryInterceptor(unaryClientErrors),
		grpc.WithChainStreamInterceptor(streamClientErrors),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithIdleTimeout(0), // an idle connection is one that answers at once
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: dialTimeout + handshakeTimeout,
		}),
	}
}

// Invoke performs a unary RPC.
func (c *Conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	e, err := c.begin()
	if err != nil {
		return err
	}
	defer c.end(e)
	return e.cc.Invoke(ctx, method, args, reply, opts...)
}

// NewStream begins a streaming RPC.
func (c *Conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	e, err := c.begin()
	if err != nil {
		return nil, err
	}
	done := sync.OnceFunc(func() { c.end(e) })
	// The slice is the caller's: appending in place could write to it.
	opts = append(opts[:len(opts):len(opts)], grpc.OnFinish(func(error) { done() }))
	stream, err := e.cc.NewStream(ctx, desc, method, opts...)
	if err != nil {
		done()
		return nil, err
	}
	return stream, nil
}

// Close ends the connection and all of its calls.
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

// begin counts a call on the connection of the current identity, and retires that of the one before.
func (c *Conn) begin() (*era, error) {
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
		c.cur = &era{cc: cc, gen: gen}
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

func (c *Conn) end(e *era) {
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

// clientCreds does the client's side of the handshake inside of gRPC, so that its errors reach the caller.
type clientCreds struct {
	id   *Identity
	name string
	want wanted
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
