package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"swarm/internal/pki"
)

// AuthInfo is who the peer of a connection has proven to be. It says nothing of what the peer may do.
type AuthInfo struct {
	credentials.CommonAuthInfo

	// Peer is what the certificate proved. Kind is pki.KindUnknown when there was none: such a peer may ask to join, and
	// nothing else. The certificate may have expired; ask Expired at every call, since connections outlive certificates.
	Peer pki.Peer
	// Local is set when the peer came through the local socket, whose file mode is its authorisation. There is no
	// certificate then.
	Local *LocalUser
	// Binding is the same 32 bytes at both ends of a connection, and different on every other one
	// (RFC 9266 with a label of ours). Proofs of a join token are made over it. It is empty for a
	// local peer.
	Binding []byte
	// Running is set when something is judged again that the peer was allowed to begin: then a key
	// counts that was current at the time. Otherwise the renewal of a certificate would cut the
	// streams of its node.
	Running bool

	conn *peerConn // nil for calls inside of one process
}

// HangUp closes the connection of the peer, and so ends all of its calls. It is for a peer that may
// not do any more what one of its calls goes on doing.
func (a AuthInfo) HangUp() {
	if a.conn != nil {
		_ = a.conn.Close()
	}
}

// LocalUser is the process at the other end of the local socket, as the kernel vouches for it.
type LocalUser struct {
	UID, GID uint32
	PID      int32
}

// AuthType names the scheme for gRPC.
func (AuthInfo) AuthType() string { return "swarm" }

// NodeID is the node's id, "" for anything but a node.
func (a AuthInfo) NodeID() string {
	if a.Peer.Kind == pki.KindNode {
		return a.Peer.ID
	}
	return ""
}

// User is the name of a user with a credential, "" for anything else.
func (a AuthInfo) User() string {
	if a.Peer.Kind == pki.KindUser {
		return a.Peer.ID
	}
	return ""
}

// Credential is the id of a user's credential, "" for anything but a user.
func (a AuthInfo) Credential() string {
	if a.Peer.Kind == pki.KindUser && a.Peer.Cert != nil {
		return pki.Serial(a.Peer.Cert)
	}
	return ""
}

// Anonymous reports whether the peer has proven nothing.
func (a AuthInfo) Anonymous() bool { return a.Local == nil && a.Peer.Kind == pki.KindUnknown }

// Expired reports whether the peer's certificate has expired. Only renewal may be granted then.
func (a AuthInfo) Expired(now time.Time) bool {
	return a.Peer.Kind != pki.KindUnknown && now.After(a.Peer.NotAfter)
}

// String names the peer for logs and audit: "node abc...", "user jane", "local uid 0", "anonymous".
func (a AuthInfo) String() string {
	switch {
	case a.Local != nil:
		return fmt.Sprintf("local uid %d", a.Local.UID)
	case a.Peer.Kind != pki.KindUnknown:
		return a.Peer.Kind.String() + " " + a.Peer.ID
	default:
		return "anonymous"
	}
}

// FromContext is the peer of a gRPC call; errdefs.ErrUnauthenticated when the call came through no listener of ours.
func FromContext(ctx context.Context) (AuthInfo, error) {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(AuthInfo); ok {
			return info, nil
		}
	}
	return AuthInfo{}, errdefs.ErrUnauthenticated.WithMessage("the call came through an unauthenticated connection")
}

// WithAuthInfo returns a context as a server handler sees it, for tests and for calls inside of one process.
func WithAuthInfo(ctx context.Context, info AuthInfo) context.Context {
	return peer.NewContext(ctx, &peer.Peer{Addr: &net.UnixAddr{Name: "inside", Net: "unix"}, AuthInfo: info})
}

// PeerOf is the peer of a connection from Listener.Raft, Listener.Blob or Dialer.DialALPN.
func PeerOf(c net.Conn) (AuthInfo, bool) {
	if pc, ok := c.(*peerConn); ok {
		return pc.info, true
	}
	return AuthInfo{}, false
}

// peerConn is a connection after its handshake. It hides that it is a *tls.Conn, from which net/http and grpc would draw
// conclusions of their own.
type peerConn struct {
	net.Conn
	info   AuthInfo
	expiry *time.Timer // nil: the connection may outlive the certificate
	// unread is how long one Write may take; 0: as long as it likes.
	unread time.Duration
	// reading is held by the call that reads its first message, see boundFirst.
	reading chan struct{}
}

// Write implements net.Conn. Whoever reads nothing loses the connection, and with it frees what waits to be sent: gRPC would
// keep it for as long as the peer sends something.
func (c *peerConn) Write(p []byte) (int, error) {
	if c.unread > 0 {
		if err := c.SetWriteDeadline(time.Now().Add(c.unread)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// closeAtExpiry ends the connection when the peer's certificate expires, and with it every stream that the certificate
// opened. A connection whose certificate has already expired is for renewal alone, which is judged at each call.
func (c *peerConn) closeAtExpiry(now time.Time) {
	if left := c.info.Peer.NotAfter.Sub(now); c.info.Peer.Kind != pki.KindUnknown && left > 0 {
		c.expiry = time.AfterFunc(left, func() { _ = c.Conn.Close() })
	}
}

// Close implements net.Conn.
func (c *peerConn) Close() error {
	if c.expiry != nil {
		c.expiry.Stop()
	}
	return c.Conn.Close()
}

// bindingLabel and bindingSize are those of AuthInfo.Binding.
const (
	bindingLabel = "EXPORTER-swarm-binding"
	bindingSize  = 32
)

func secured(c *tls.Conn, p pki.Peer) *peerConn {
	cs := c.ConnectionState()
	binding, err := cs.ExportKeyingMaterial(bindingLabel, nil, bindingSize)
	if err != nil {
		panic("transport: no keying material of a TLS 1.3 connection: " + err.Error()) // only renegotiation, which 1.3 has not
	}
	out := &peerConn{Conn: c, reading: make(chan struct{}, 1), info: AuthInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		Peer:           p,
		Binding:        binding,
	}}
	out.info.conn = out
	return out
}

// judgeClient decides on a client in the handshake. Without a certificate, or with one that has only expired, a client may
// still speak gRPC, where joining and renewal are served. Blobs need the certificate of a node, Raft that of a manager.
// Whether the node still is one, ListenerDeps.Admit knows.
func judgeClient(cs tls.ConnectionState, bundle *pki.Bundle, now time.Time) (pki.Peer, error) {
	member := cs.NegotiatedProtocol == ProtoRaft || cs.NegotiatedProtocol == ProtoBlob
	if len(cs.PeerCertificates) == 0 {
		if member {
			return pki.Peer{}, errdefs.ErrUnauthenticated.WithMessage(cs.NegotiatedProtocol + " needs a node's certificate")
		}
		return pki.Peer{}, nil
	}
	p, err := pki.Verify(cs.PeerCertificates, bundle, now)
	switch {
	case errors.Is(err, pki.ErrExpired) && !member:
		return p, nil
	case err != nil:
		return pki.Peer{}, err
	case member && p.Kind != pki.KindNode:
		return pki.Peer{}, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("%s is for nodes, not for %s %s", cs.NegotiatedProtocol, p.Kind, p.ID))
	case cs.NegotiatedProtocol == ProtoRaft && !p.Manager:
		return pki.Peer{}, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("%s needs a manager's certificate, and that of node %s does not say that it is one", cs.NegotiatedProtocol, p.ID))
	}
	return p, nil
}

// judgeServer decides on a server in the handshake.
func judgeServer(cs tls.ConnectionState, bundle *pki.Bundle, want wanted, now time.Time) (pki.Peer, error) {
	p, err := pki.Verify(cs.PeerCertificates, bundle, now)
	switch {
	case err != nil:
		return pki.Peer{}, err
	case p.Kind != pki.KindNode:
		return pki.Peer{}, errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("%s %s answers, which is no node", p.Kind, p.ID))
	case want.nodeID != "" && p.ID != want.nodeID:
		return pki.Peer{}, errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("node %s answers, and not node %s: the address has changed hands", p.ID, want.nodeID))
	case want.manager && !p.Manager:
		return pki.Peer{}, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
			"the host there is node %s, which is not a manager: give the address of a manager (`swarm node ls` on one lists them)", p.ID))
	case cs.NegotiatedProtocol != want.alpn:
		return pki.Peer{}, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("node %s does not speak %s", p.ID, want.alpn))
	}
	return p, nil
}
