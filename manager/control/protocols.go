package control

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// Protocols returns the table of the protocols (ALPN) that a manager speaks at the cluster port,
// and of the callers that may open a connection for each. A connection for gRPC does not permit any
// call: Rules decides that. Some gRPC calls are open to nodes that the replica does not know and to
// callers without a certificate, so these may connect.
//
// The transport refuses Raft to a peer whose certificate does not say that it is a manager. For the
// others, raftstore.Store.CheckPeer tells former managers from managers that the replica does not
// know yet. Peers read the cluster's roots from the TLS handshake, so these need no protocol here.
func Protocols() map[string]Rule {
	return map[string]Rule{
		transport.ProtoGRPC: {Serve, "call", anonymous | anyNode | user | expired | unknownNode},
		transport.ProtoRaft: {Serve, "log", anyNode | unknownNode},
		transport.ProtoBlob: {Get, "image copy", anyNode},
	}
}

// Admit returns how far a peer is trusted with a connection for a protocol, or an error if it may
// not connect. Users without a valid credential, and nodes that the replica does not know or whose
// key is not current, get transport.Stranger: they may connect for gRPC, and their calls are
// refused with the reason.
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
	case who.User() != "" && a.judgeCredential(context.Background(), who, now) == nil: // It waits for at most crud.CatchUpTimeout.
		return transport.Full, nil
	case !member || who.NodeID() == "":
		return transport.Stranger, nil
	case role == swarmv1.NodeSpec_MANAGER:
		return transport.Full, nil
	}
	return transport.Worker, nil
}
