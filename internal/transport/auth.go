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

// AuthInfo is the identity that the peer of a connection has proved. It does not say what the peer
// may do.
type AuthInfo struct {
	credentials.CommonAuthInfo

	// Peer is the identity in the certificate. Kind is pki.KindUnknown if there was no certificate:
	// such a peer may only ask to join. The certificate may have expired. Call Expired for every
	// RPC, because connections outlive certificates.
	Peer pki.Peer
	// Local is set if the peer came through the local socket, whose file mode decides who may
	// connect. Such a peer has no certificate.
	Local *LocalUser
	// Binding is a value of 32 bytes that both ends of a connection derive from it and that no
	// other connection has (RFC 9266, with our own label). Proofs of a join token are computed over
	// it. It is empty for a local peer.
	Binding []byte
	// Established is set if the peer is checked again for a connection or a call that was accepted
	// before. A key that was the newest at that time is then sufficient. If it were not, the
	// renewal of a certificate would end the streams of its node.
	Established bool

	conn *peerConn // nil for calls within one process
}

// CloseConn closes the connection of the peer, which ends all of its calls. Use it if a peer has
// lost the permission for a call that is running. It does nothing for a call within one process.
func (a AuthInfo) CloseConn() {
	if a.conn != nil {
		_ = a.conn.Close()
	}
}

// LocalUser is the process at the other end of the local socket, as the kernel reports it.
type LocalUser struct {
	UID, GID uint32
	PID      int32
}

// AuthType implements credentials.AuthInfo.
func (AuthInfo) AuthType() string { return "swarm" }

// NodeID returns the id of the node, or "" if the peer is not a node.
func (a AuthInfo) NodeID() string {
	if a.Peer.Kind == pki.KindNode {
		return a.Peer.ID
	}
	return ""
}

// User returns the name of the user, or "" if the peer is not a user with a credential.
func (a AuthInfo) User() string {
	if a.Peer.Kind == pki.KindUser {
		return a.Peer.ID
	}
	return ""
}

// Credential returns the id of the credential of a user, or "" if the peer is not a user.
func (a AuthInfo) Credential() string {
	if a.Peer.Kind == pki.KindUser && a.Peer.Cert != nil {
		return pki.Serial(a.Peer.Cert)
	}
	return ""
}

// Anonymous reports whether the peer has proved no identity.
func (a AuthInfo) Anonymous() bool { return a.Local == nil && a.Peer.Kind == pki.KindUnknown }

// Expired reports whether the certificate of the peer has expired. Such a peer may only renew it.
func (a AuthInfo) Expired(now time.Time) bool {
	return a.Peer.Kind != pki.KindUnknown && now.After(a.Peer.NotAfter)
}

// String returns the name of the peer for logs and the audit log: "node abc...", "user jane",
// "local uid 0" or "anonymous".
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

// FromContext returns the peer of a gRPC call. It returns errdefs.ErrUnauthenticated if the call
// did not come through a listener of this package.
func FromContext(ctx context.Context) (AuthInfo, error) {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(AuthInfo); ok {
			return info, nil
		}
	}
	return AuthInfo{}, errdefs.ErrUnauthenticated.WithMessage("the call came through an unauthenticated connection")
}

// WithAuthInfo returns the context that a server handler gets for a peer. It is for tests and for
// calls within one process.
func WithAuthInfo(ctx context.Context, info AuthInfo) context.Context {
	return peer.NewContext(ctx, &peer.Peer{Addr: &net.UnixAddr{Name: "inside", Net: "unix"}, AuthInfo: info})
}

// PeerOf returns the peer of a connection from Listener.Raft, Listener.Blob or Dialer.DialALPN. It
// returns false for any other connection.
func PeerOf(c net.Conn) (AuthInfo, bool) {
	if pc, ok := c.(*peerConn); ok {
		return pc.info, true
	}
	return AuthInfo{}, false
}

// peerConn is a connection after its handshake. It hides the *tls.Conn from net/http and gRPC,
// which handle a connection of that type as if they had made its handshake themselves.
type peerConn struct {
	net.Conn
	info   AuthInfo
	expiry *time.Timer // nil if the connection may outlive the certificate
	// writeTimeout limits the time of one Write. 0 means no limit.
	writeTimeout time.Duration
	// reading is a semaphore. A call holds it while it reads its first message, see
	// limitFirstMessage.
	reading chan struct{}
}

// Write implements net.Conn. If the peer does not read within writeTimeout, the connection ends and
// the data that waits to be sent is freed. gRPC would keep the data as long as the peer sends
// something.
func (c *peerConn) Write(p []byte) (int, error) {
	if c.writeTimeout > 0 {
		if err := c.SetWriteDeadline(time.Now().Add(c.writeTimeout)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// closeAtExpiry closes the connection, with every stream on it, when the certificate of the peer
// expires. A connection whose certificate has already expired stays open: it may only be used for
// renewal, and each call is checked.
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

// bindingLabel and bindingSize define AuthInfo.Binding.
const (
	bindingLabel = "EXPORTER-swarm-binding"
	bindingSize  = 32
)

// newPeerConn wraps a TLS connection whose handshake has proved the peer p.
func newPeerConn(c *tls.Conn, p pki.Peer) *peerConn {
	cs := c.ConnectionState()
	binding, err := cs.ExportKeyingMaterial(bindingLabel, nil, bindingSize)
	if err != nil {
		panic("transport: no keying material of a TLS 1.3 connection: " + err.Error()) // only with renegotiation, which TLS 1.3 does not have
	}
	out := &peerConn{Conn: c, reading: make(chan struct{}, 1), info: AuthInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		Peer:           p,
		Binding:        binding,
	}}
	out.info.conn = out
	return out
}

// verifyClient checks the certificate of a client in the handshake. A client without a certificate,
// or with an expired one, may use gRPC only, which serves joins and renewals. Blobs need the
// certificate of a node, and Raft that of a manager. Whether the node is still a member or a
// manager is decided by ListenerDeps.Admit.
func verifyClient(cs tls.ConnectionState, bundle *pki.Bundle, now time.Time) (pki.Peer, error) {
	member := cs.NegotiatedProtocol == ProtoRaft || cs.NegotiatedProtocol == ProtoBlob
	if len(cs.PeerCertificates) == 0 {
		if member {
			return pki.Peer{}, errdefs.ErrUnauthenticated.WithMessage(cs.NegotiatedProtocol + " needs a node certificate")
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
		return pki.Peer{}, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("%s needs a manager certificate, and node %s did not present one", cs.NegotiatedProtocol, p.ID))
	}
	return p, nil
}

// verifyServer checks the certificate and the protocol of a server in the handshake.
func verifyServer(cs tls.ConnectionState, bundle *pki.Bundle, want expectedPeer, now time.Time) (pki.Peer, error) {
	p, err := pki.Verify(cs.PeerCertificates, bundle, now)
	switch {
	case err != nil:
		return pki.Peer{}, err
	case p.Kind != pki.KindNode:
		return pki.Peer{}, errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("%s %s answers, which is not a node", p.Kind, p.ID))
	case want.nodeID != "" && p.ID != want.nodeID:
		return pki.Peer{}, errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("node %s answers instead of node %s: the address now belongs to another node", p.ID, want.nodeID))
	case want.manager && !p.Manager:
		return pki.Peer{}, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
			"the host there is node %s, which is not a manager: give the address of a manager (`swarm node ls` on one lists them)", p.ID))
	case cs.NegotiatedProtocol != want.alpn:
		return pki.Peer{}, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("node %s does not speak %s", p.ID, want.alpn))
	}
	return p, nil
}
