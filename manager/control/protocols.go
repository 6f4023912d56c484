package control

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/transport"
)

// Protocols is the table of the protocols that the cluster port of a manager speaks (ALPN), and of
// who may have a connection for each. It stands before Rules, which judges the calls of gRPC: there
// a stranger and nobody may call, so they may connect. What it says of Raft holds for nodes whose
// certificate says that they are managers; the transport refuses others, and raftstore.Store.Hears
// tells former managers from those that the replica does not know yet. Roots are read off the
// handshake: there is no connection to judge.
func Protocols() map[string]Rule {
	return map[string]Rule{
		transport.ProtoGRPC: {Serve, "call", anonymous | anyNode | user | expired | stranger},
		transport.ProtoRaft: {Serve, "log", anyNode | stranger},
		transport.ProtoBlob: {Get, "image copy", anyNode},
	}
}

// Admit says whether a peer may have a connection for a protocol. A user with a revoked credential
// may open one, and is told why each call is refused; a connection that was open at the time ends.
func (a *Authoriser) Admit(proto string, who transport.AuthInfo) error {
	rule, ok := a.protocols[proto]
	if !ok {
		return errdefs.ErrPermissionDenied.WithMessage(proto + " is not served here")
	}
	now := time.Now()
	if err := a.judge(who, rule, now); err != nil || who.User() == "" || !who.Running {
		return err
	}
	return a.judgeCredential(context.Background(), who, now) // does not wait for what runs already
}
