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
	// dialTimeout bounds the TCP connection and handshakeTimeout the TLS handshake of an outgoing connection, when the
	// caller's context is more patient.
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 5 * time.Second
)

// Dialer makes connections to nodes by their id. It is safe for concurrent use.
type Dialer struct {
	id      *Identity
	resolve func(nodeID string) (addr string, ok bool)

	mu     sync.Mutex // guards the two below
	conns  map[string]*Conn
	closed bool
}

// NewDialer makes a Dialer that finds a node's current address (host:port) by resolve at every connection attempt. It
// may be nil for one that only uses DialAddr.
func NewDialer(id *Identity, resolve func(nodeID string) (addr string, ok bool)) *Dialer {
	return &Dialer{id: id, resolve: resolve, conns: map[string]*Conn{}}
}

// DialGRPC returns the connection for RPCs to a node. It is made on first use, shared by all callers, and reconnects by
// itself; only a node with that id is talked to, wherever it is. Callers do not close it.
func (d *Dialer) DialGRPC(nodeID string) (*Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errConnClosed
	}
	if c := d.conns[nodeID]; c != nil {
		return c, nil
	}
	c := newConn(d.id, "node "+nodeID, wanted{nodeID: nodeID, alpn: ProtoGRPC}, func() (string, error) { return d.lookup(nodeID) })
	d.conns[nodeID] = c
	return c, nil
}

// DialAddr returns a connection for RPCs to whichever manager of the cluster answers at addr.
// Another node that answers there is sent nothing: what joiners and users send is for managers. The
// caller closes it.
func (d *Dialer) DialAddr(addr string) *Conn {
	return newConn(d.id, addr, wanted{manager: true, alpn: ProtoGRPC}, func() (string, error) { return addr, nil },
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
}

// DialALPN opens a connection to a node for one of the protocols ProtoRaft and ProtoBlob. PeerOf
// tells whose it is. For ProtoRaft this node must hold a manager's certificate;
// errdefs.ErrUnavailable as long as it does not. The node that answers need not: a new manager has
// none until it has caught up, and the caller knows whom it dials.
func (d *Dialer) DialALPN(ctx context.Context, nodeID, proto string) (net.Conn, error) {
	if proto == ProtoRaft && d.id.Manager().Cert == nil {
		return nil, errdefs.ErrUnavailable.WithMessage("dial node " + nodeID + ": this node has no manager's certificate yet")
	}
	addr, err := d.lookup(nodeID)
	if err != nil {
		return nil, fmt.Errorf("dial node %s: %w", nodeID, err)
	}
	raw, err := dialTCP(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dial node %s: %w", nodeID, err)
	}
	conn, err := clientHandshake(ctx, d.id, raw, wanted{nodeID: nodeID, alpn: proto})
	if err != nil {
		return nil, fmt.Errorf("dial node %s at %s: %w", nodeID, addr, err)
	}
	return conn, nil
}

// Answers tells whether a node answers at an address, and proves there that it is that node. It asks as every connection of
// this node does, and hangs up.
func (d *Dialer) Answers(ctx context.Context, nodeID, hostport string) error {
	raw, err := dialTCP(ctx, hostport)
	if err != nil {
		return err
	}
	conn, err := clientHandshake(ctx, d.id, raw, wanted{nodeID: nodeID, alpn: ProtoGRPC})
	if err != nil {
		return err
	}
	return conn.Close()
}

// maxPeerHeader bounds the header of a peer's answer, in bytes.
const maxPeerHeader = 16 << 10

// BlobTransport speaks HTTP to the blob servers of nodes: the host of a URL is the node's id, as in
// http://<node id>/path. The bytes go through TLS; net/http must not know.
func (d *Dialer) BlobTransport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, hostport string) (net.Conn, error) {
			nodeID, _, err := net.SplitHostPort(hostport)
			if err != nil {
				return nil, err
			}
			return d.DialALPN(ctx, nodeID, ProtoBlob)
		},
		Proxy:              nil, // cluster traffic never goes through one
		DisableCompression: true,
		// A peer's headers are a few lines.
		MaxResponseHeaderBytes: maxPeerHeader,

		MaxIdleConnsPerHost: 4,
		MaxConnsPerHost:     maxBlobs,
		IdleConnTimeout:     30 * time.Second,
	}
}

// Forget closes the connection to a node that has left the cluster.
func (d *Dialer) Forget(nodeID string) {
	d.mu.Lock()
	c := d.conns[nodeID]
	delete(d.conns, nodeID)
	d.mu.Unlock()
	if c != nil {
		_ = c.Close()
	}
}

// Close closes all connections of DialGRPC. Those of DialALPN and DialAddr belong to their callers.
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

// keepAlive finds out that the other host is gone.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

// dialTCP connects, never through a proxy, and says what is wrong in words.
func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, ctx.Err()
	}
	var timeout net.Error
	why := err.Error()
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "connection refused: is swarm running there?"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		why = "no route to it: are the two hosts on the same network?"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		why = "no answer: is the host up, and does a firewall let the port through?"
	}
	return nil, errdefs.ErrUnavailable.WithMessage(addr + ": " + why)
}

// clientHandshake makes raw a verified connection, or closes it.
func clientHandshake(ctx context.Context, id *Identity, raw net.Conn, want wanted) (*peerConn, error) {
	config, proven := id.clientConfig(want)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, explainHandshake(err)
	}
	return secured(conn, proven()), nil
}

// explainHandshake puts what the other side's TLS said into words. Errors of our own judgement are in words already.
func explainHandshake(err error) error {
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

// alertNoProtocol is TLS's no_application_protocol (RFC 7301).
const alertNoProtocol = tls.AlertError(120)

// Bootstrap is what a joiner learns from the first contact.
type Bootstrap struct {
	Bundle *pki.Bundle // to be trusted from now on
	Peer   pki.Peer    // the manager that answered
}

// PinnedBootstrap fetches the roots of the cluster at addr and checks that the token pins one of
// them, before anything secret is sent. The server proves that it holds a manager's certificate
// which ends in the pinned root; TLS 1.3 signs the whole of what it presents, and so the other
// roots of the bundle are as trustworthy. It fails with ErrUnavailable when nobody answers, and
// with ErrAborted when the other side hangs up, as a manager does that has too many connections:
// then another attempt may succeed.
func PinnedBootstrap(ctx context.Context, addr string, token pki.Token, now time.Time) (Bootstrap, error) {
	raw, err := dialTCP(ctx, addr)
	if err != nil {
		return Bootstrap{}, err
	}
	defer raw.Close()
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	var found Bootstrap
	var verdict error
	conn := tls.Client(raw, &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{protoRoots},
		InsecureSkipVerify: true, // there is nothing to verify with yet but the digest
		VerifyConnection: func(cs tls.ConnectionState) error {
			found, verdict = judgeBootstrap(cs, addr, token, now)
			return verdict
		},
	})
	err = conn.HandshakeContext(ctx)
	switch {
	case verdict != nil:
		return Bootstrap{}, verdict
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		return Bootstrap{}, ctx.Err()
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		return Bootstrap{}, errdefs.ErrAborted.WithMessage(addr + " hangs up: it is a swarm manager with too many connections, which serves this host later, or another program: give the address and port that `swarm join-token` prints")
	case err != nil:
		return Bootstrap{}, notSwarm(addr)
	}
	_ = conn.Close()
	return found, nil
}

func judgeBootstrap(cs tls.ConnectionState, addr string, token pki.Token, now time.Time) (Bootstrap, error) {
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
	p, err := judgeServer(cs, pinned, wanted{manager: true, alpn: protoRoots}, now)
	if err != nil {
		return Bootstrap{}, fmt.Errorf("%s: %w", addr, err)
	}
	return Bootstrap{Bundle: bundle, Peer: p}, nil
}

func notSwarm(addr string) error {
	return errdefs.ErrFailedPrecondition.WithMessage(addr + " answers but is no swarm manager: give the address and port that `swarm join-token` prints")
}
