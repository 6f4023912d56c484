package transport

import (
	"log/slog"
	"maps"

	"github.com/containerd/errdefs"
)

// Trust selects the limits of a peer: its number of connections, calls and bytes. It does not
// decide which methods the peer may call.
type Trust uint8

// The levels of trust.
const (
	// Stranger is a peer without a valid certificate: it has none, or its certificate has expired,
	// was replaced or revoked, or belongs to a removed node.
	Stranger Trust = iota
	// Worker is a node that sends and receives little. An attacker that broke out of a container
	// may control its host.
	Worker
	// Full is for managers and users.
	Full
)

var (
	errNotAccepted   = errdefs.ErrPermissionDenied.WithMessage("the cluster does not accept the peer's certificate")
	errLimitsChanged = errdefs.ErrUnavailable.WithMessage("the limits for the peer have changed: connect again")
)

// admitted describes an open connection: its protocol, its peer, and the trust that the peer had
// when the connection was accepted.
type admitted struct {
	proto string
	who   AuthInfo
	trust Trust
}

// peerKey identifies the holder of a certificate key for one protocol. Connections are counted for
// a key, not for a node or a user. A former key of a node, or a revoked credential, can therefore
// not use up the limit of the current key.
type peerKey struct{ proto, key string }

func (a admitted) peerKey() peerKey { return peerKey{a.proto, string(a.who.Peer.PublicKey())} }

// subName returns the name of the sub-listener that gets the connection.
func (a admitted) subName() string {
	switch {
	case a.proto == ProtoGRPC && a.trust == Stranger:
		return subStrangers
	case a.proto == ProtoGRPC && a.trust == Worker:
		return subWorkers
	}
	return a.proto
}

// admit checks the peer of a connection, counts the connection, and checks the peer again. Review
// checks only connections that are counted. A change of membership between the first check and the
// count would go unnoticed without the second check. The result has the trust of the peer.
func (l *Listener) admit(conn *trackedConn, a admitted) (admitted, error) {
	trust, err := l.checkTrust(a)
	if err != nil {
		return a, err
	}
	a.trust = trust
	if err := l.count(conn, a); err != nil {
		return a, err
	}
	return a, l.recheck(a)
}

// checkTrust calls Admit. A peer without a valid certificate is a Stranger even if Admit returns
// more trust. A Stranger may use gRPC only.
func (l *Listener) checkTrust(a admitted) (Trust, error) {
	trust := Full
	if l.deps.Admit != nil {
		var err error
		if trust, err = l.deps.Admit(a.proto, a.who); err != nil {
			return Stranger, err
		}
	}
	if a.who.Anonymous() || a.who.Expired(l.deps.Identity.now()) {
		trust = Stranger
	}
	if trust == Stranger && a.proto != ProtoGRPC {
		return Stranger, errNotAccepted
	}
	return trust, nil
}

// recheck checks the peer of an admitted connection again. It returns an error if the connection
// must end: the peer is no longer admitted, or its limits have changed. The gRPC connection of a
// member stays open if its key was the newest when the connection was accepted. A blob connection
// with a former key ends, because it is cheap to open a new one.
func (l *Listener) recheck(a admitted) error {
	a.who.Established = a.proto == ProtoGRPC && (a.trust != Stranger || a.who.User() != "")
	trust, err := l.checkTrust(a)
	now := a
	if now.trust = trust; err == nil && now.subName() != a.subName() {
		return errLimitsChanged
	}
	return err
}

// Review checks the peer of every open connection with Admit again. It closes the connections that
// Admit refuses, and the gRPC connections of peers whose trust has changed. Call it after a change
// of a membership, a role or a credential.
func (l *Listener) Review() {
	l.connsMu.Lock()
	open := maps.Clone(l.conns)
	l.connsMu.Unlock()
	for conn, a := range open {
		if a.proto == "" {
			continue // the handshake is not finished
		}
		if err := l.recheck(a); err != nil {
			_ = conn.Close()
			l.log.Log(slog.LevelInfo, "closed "+a.who.String()+" "+a.proto, "connection closed", "peer", a.who.String(), "protocol", a.proto, "err", err)
		}
	}
}
