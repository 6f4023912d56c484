package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/pki"
)

const (
	// dialTimeout limits the TCP connection attempt, and handshakeTimeout the TLS handshake of an
	// outgoing connection, if the context of the caller allows more time.
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 5 * time.Second
)

// Dialer opens connections to nodes by their id. It is safe for concurrent use.
type Dialer struct {
	id      *Identity
	resolve func(nodeID string) (addr string, ok bool)

	mu     sync.Mutex // guards conns and closed
	conns  map[string]*Conn
	closed bool
}

// NewDialer makes a Dialer. At every connection attempt, resolve returns the current address
// (host:port) of a node. resolve may be nil if only DialAddr is used.
func NewDialer(id *Identity, resolve func(nodeID string) (addr string, ok bool)) *Dialer {
	return &Dialer{id: id, resolve: resolve, conns: map[string]*Conn{}}
}

// DialGRPC returns the connection for RPCs to a node. The Dialer makes the connection on first use,
// shares it between all callers, and reconnects it. The connection accepts only a server with that
// node id, whatever its address is. Callers do not close it.
func (d *Dialer) DialGRPC(nodeID string) (*Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errConnClosed
	}
	if c := d.conns[nodeID]; c != nil {
		return c, nil
	}
	c := newConn(d.id, "node "+nodeID, expectedPeer{nodeID: nodeID, alpn: ProtoGRPC}, func() (string, error) { return d.lookup(nodeID) },
		grpc.WithStaticStreamWindowSize(smallWindow),
		grpc.WithStaticConnWindowSize(nodeWindow))
	d.conns[nodeID] = c
	return c, nil
}

// DialAddr returns a connection for RPCs to the manager of the cluster that answers at addr. If the
// node that answers is not a manager, the calls fail and it receives no request, because the
// requests of joiners and users are for managers only. The caller closes the connection.
func (d *Dialer) DialAddr(addr string) *Conn {
	return newConn(d.id, addr, expectedPeer{manager: true, alpn: ProtoGRPC}, func() (string, error) { return addr, nil },
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
}

// DialALPN opens a connection to a node for ProtoRaft or ProtoBlob. PeerOf returns its peer. For
// ProtoRaft, this node must hold a manager certificate; without one, DialALPN returns
// errdefs.ErrUnavailable. The node that answers needs no manager certificate: a new manager has
// none until it has caught up, and the caller knows which node it dials.
func (d *Dialer) DialALPN(ctx context.Context, nodeID, proto string) (net.Conn, error) {
	if proto == ProtoRaft && d.id.Manager().Cert == nil {
		return nil, errdefs.ErrUnavailable.WithMessage("dial node " + nodeID + ": this node has no manager certificate yet")
	}
	addr, err := d.lookup(nodeID)
	if err != nil {
		return nil, fmt.Errorf("dial node %s: %w", nodeID, err)
	}
	raw, err := dialTCP(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dial node %s: %w", nodeID, err)
	}
	conn, err := clientHandshake(ctx, d.id, raw, expectedPeer{nodeID: nodeID, alpn: proto})
	if err != nil {
		return nil, fmt.Errorf("dial node %s at %s: %w", nodeID, addr, err)
	}
	return conn, nil
}

// Answers returns nil if the node answers at hostport and proves its id there. It opens a
// connection for gRPC and closes it after the handshake.
func (d *Dialer) Answers(ctx context.Context, nodeID, hostport string) error {
	raw, err := dialTCP(ctx, hostport)
	if err != nil {
		return err
	}
	conn, err := clientHandshake(ctx, d.id, raw, expectedPeer{nodeID: nodeID, alpn: ProtoGRPC})
	if err != nil {
		return err
	}
	return conn.Close()
}

// maxPeerHeader limits the header of an HTTP response of a peer, in bytes.
const maxPeerHeader = 16 << 10

// BlobTransport returns an HTTP transport for the blob servers of nodes. The host of a URL is a
// node id, as in http://<node id>/path. The scheme is http because the Dialer does the TLS
// handshake, not net/http.
func (d *Dialer) BlobTransport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, hostport string) (net.Conn, error) {
			nodeID, _, err := net.SplitHostPort(hostport)
			if err != nil {
				return nil, err
			}
			return d.DialALPN(ctx, nodeID, ProtoBlob)
		},
		Proxy:                  nil, // cluster traffic never uses a proxy
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxPeerHeader,

		MaxIdleConnsPerHost: 4,
		MaxConnsPerHost:     maxBlobConns,
		IdleConnTimeout:     30 * time.Second,
	}
}

// Forget closes the connection of DialGRPC to a node that has left the cluster.
func (d *Dialer) Forget(nodeID string) {
	d.mu.Lock()
	c := d.conns[nodeID]
	delete(d.conns, nodeID)
	d.mu.Unlock()
	if c != nil {
		_ = c.Close()
	}
}

// Close closes all connections of DialGRPC. The caller owns the connections of DialALPN and
// DialAddr.
func (d *Dialer) Close() error {
	d.mu.Lock()
	conns := d.conns
	d.conns, d.closed = nil, true
	d.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	return nil
}

func (d *Dialer) lookup(nodeID string) (string, error) {
	if d.resolve != nil {
		if addr, ok := d.resolve(nodeID); ok {
			return addr, nil
		}
	}
	return "", errdefs.ErrUnavailable.WithMessage("its address is not known")
}

// keepAlive detects that the other host is gone.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

// dialTCP connects without a proxy. Its error text says what is wrong and what to check.
func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, ctx.Err()
	}
	var name *net.DNSError
	var timeout net.Error
	why := err.Error()
	switch {
	case errors.As(err, &name):
		why = "its name cannot be looked up (" + name.Err + "): check it, or give an IP address"
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "connection refused: is swarm running there?"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		why = "no route to it: are the two hosts on the same network?"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		why = "no answer: is the host up, and does a firewall let the port through?"
	}
	return nil, errdefs.ErrUnavailable.WithMessage(addr + ": " + why)
}

// clientHandshake does the TLS handshake on raw and verifies the server. It closes raw on an error.
func clientHandshake(ctx context.Context, id *Identity, raw net.Conn, want expectedPeer) (*peerConn, error) {
	config, proven := id.clientConfig(want)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, describeHandshakeError(err)
	}
	return newPeerConn(conn, proven()), nil
}

// describeHandshakeError explains a TLS error of the other side in the words of this project.
// Errors of verifyServer need no explanation and are returned as they are.
func describeHandshakeError(err error) error {
	var alert tls.AlertError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &alert) && alert == alertNoProtocol:
		return errdefs.ErrUnavailable.WithMessage("it does not speak this protocol: is it another program, or another version of swarm?")
	case errors.As(err, &alert):
		return errdefs.ErrUnauthenticated.WithMessage("it refused our certificate (" + alert.Error() + ")")
	case errors.As(err, &record):
		return errdefs.ErrUnavailable.WithMessage("it does not speak TLS: another program has the port")
	case errors.Is(err, context.DeadlineExceeded):
		return errdefs.ErrUnavailable.WithMessage("it accepts connections but does not answer")
	}
	return err
}

// alertNoProtocol is the TLS alert no_application_protocol (RFC 7301).
const alertNoProtocol = tls.AlertError(120)

// Bootstrap is the result of the first contact of a joiner with the cluster.
type Bootstrap struct {
	Bundle *pki.Bundle // the roots to trust from now on
	Peer   pki.Peer    // the manager that answered
}

// PinnedBootstrap fetches the roots of the cluster at addr and checks that the token pins one of
// them, before anything secret is sent. The server proves that it holds a manager certificate which
// the pinned root verifies. TLS 1.3 signs everything that the server presents, so the other roots
// of the bundle are as trustworthy as the pinned one. PinnedBootstrap returns
// errdefs.ErrUnavailable if no host answers. It returns errdefs.ErrAborted if the other side closes
// the connection, which a manager with too many connections does; another attempt may then succeed.
func PinnedBootstrap(ctx context.Context, addr string, token pki.Token, now time.Time) (Bootstrap, error) {
	raw, err := dialTCP(ctx, addr)
	if err != nil {
		return Bootstrap{}, err
	}
	defer raw.Close()
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var result Bootstrap
	var verifyErr error
	conn := tls.Client(raw, &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{protoRoots},
		InsecureSkipVerify: true, // only the digest in the token can verify the server
		VerifyConnection: func(cs tls.ConnectionState) error {
			result, verifyErr = verifyBootstrap(cs, addr, token, now)
			return verifyErr
		},
	})
	err = conn.HandshakeContext(ctx)
	switch {
	case verifyErr != nil:
		return Bootstrap{}, verifyErr
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		return Bootstrap{}, ctx.Err()
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		return Bootstrap{}, errdefs.ErrAborted.WithMessage(addr + " closes the connection: it is a swarm manager with too many connections, so try again later, or another program: give the address and port that `swarm join-token` prints")
	case err != nil:
		return Bootstrap{}, notSwarm(addr)
	}
	_ = conn.Close()
	return result, nil
}

func verifyBootstrap(cs tls.ConnectionState, addr string, token pki.Token, now time.Time) (Bootstrap, error) {
	if cs.NegotiatedProtocol != protoRoots || len(cs.PeerCertificates) < 2 {
		return Bootstrap{}, notSwarm(addr)
	}
	bundle, err := pki.NewBundle(cs.PeerCertificates[1:]...)
	if err != nil {
		return Bootstrap{}, notSwarm(addr)
	}
	root, err := token.CheckRoots(bundle, addr)
	if err != nil {
		return Bootstrap{}, err
	}
	pinned, err := pki.NewBundle(root)
	if err != nil {
		return Bootstrap{}, err
	}
	p, err := verifyServer(cs, pinned, expectedPeer{manager: true, alpn: protoRoots}, now)
	if err != nil {
		return Bootstrap{}, fmt.Errorf("%s: %w", addr, err)
	}
	return Bootstrap{Bundle: bundle, Peer: p}, nil
}

func notSwarm(addr string) error {
	return errdefs.ErrFailedPrecondition.WithMessage(addr + " answers but is not a swarm manager: give the address and port that `swarm join-token` prints")
}
