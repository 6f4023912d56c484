package control

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// Protocols is the table of the protocols that the cluster port of a manager speaks (ALPN), and of
// who may have a connection for each. It stands before Rules, which judges the calls of gRPC: there
// a stranger and nobody may call, so they may connect. What it says of Raft holds for nodes whose
// certificate says that they are managers; the transport refuses others, and
// raftstore.Store.CheckPeer tells former managers from those that the replica does not know yet.
// Roots are read off the handshake: there is no connection to judge.
func Protocols() map[string]Rule {
	return map[string]Rule{
		transport.ProtoGRPC: {Serve, "call", anonymous | anyNode | user | expired | stranger},
		transport.ProtoRaft: {Serve, "log", anyNode | stranger},
		transport.ProtoBlob: {Get, "image copy", anyNode},
	}
}

// Admit says whether a peer may have a connection for a protocol, and how far it is trusted. Users whose credential is not
// known and nodes that are not known, by their current key, are strangers: they may connect, and are told why a call is
// refused.
func (a *Authoriser) Admit(proto string, who transport.AuthInfo) (transport.Trust, error) {
	rule, ok := a.protocols[proto]
	if !ok {
		return transport.Stranger, errdefs.ErrPermissionDenied.WithMessage(proto + " is not served here")
	}
	now := time.Now()
	if err := a.judge(who, rule, now); err != nil {
		return transport.Stranger, err
	}
	role, member := a.members(who)
	switch {
	case who.User() != "" && a.judgeCredential(context.Background(), who, now) == nil: // waits no longer than crud.CatchUpTimeout
		return transport.Full, nil
	case !member || who.NodeID() == "":
		return transport.Stranger, nil
	case role == swarmv1.NodeSpec_MANAGER:
		return transport.Full, nil
	}
	return transport.Worker, nil
}
