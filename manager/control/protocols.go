package control

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// Protocols returns the table of the protocols (ALPN) that the cluster port of a manager speaks,
// and of who may open a connection for each. It comes before Rules, which decides about gRPC calls.
// Some gRPC calls are open to strangers and to callers without a certificate, so those may connect.
//
// The rule of Raft holds for nodes whose certificate says that they are managers. The transport
// refuses others, and raftstore.Store.CheckPeer tells former managers from those that the replica
// does not know yet. Roots are read from the handshake, without a connection.
func Protocols() map[string]Rule {
	return map[string]Rule{
		transport.ProtoGRPC: {Serve, "call", anonymous | anyNode | user | expired | stranger},
		transport.ProtoRaft: {Serve, "log", anyNode | stranger},
		transport.ProtoBlob: {Get, "image copy", anyNode},
	}
}

// Admit returns how far a peer is trusted with a connection for a protocol, or an error if it may
// not connect. Users whose credential is not known, and nodes that are not known by their current
// key, are strangers: they may connect, and are told why their calls are refused.
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
