package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/transport"
)

// callerKinds is a set of kinds of callers. A node that is not a manager has no replica, so it
// decides by the kind of the caller. It knows the managers and the keys of all members, as the
// managers last sent them.
type callerKinds uint8

const (
	localUser  callerKinds = 1 << iota // a user of this host's socket
	anyManager                         // a manager of the cluster
	anyMember                          // any node of the cluster, including managers
)

// workerRules says who may call the methods of a node that is not a manager, by prefix. The longest
// prefix that matches applies.
var workerRules = map[string]callerKinds{
	"/swarm.v1.Daemon/":       localUser,
	"/swarm.v1.Worker/":       anyManager,
	"/swarm.v1.Disk/":         anyManager,
	"/swarm.v1.NodeVolumes/":  anyManager,
	"/swarm.v1.NodeStats/":    anyManager,
	"/swarm.v1.Doctor/Survey": localUser,
	"/swarm.v1.Doctor/Probe":  anyMember,
}

// workerProtocols says who may connect to a node that is not a manager, by protocol. Such a node
// accepts no other protocols.
var workerProtocols = map[string]callerKinds{
	transport.ProtoGRPC: anyMember | anyManager,
	transport.ProtoBlob: anyMember,
}

// authorise decides about every call to this node. A manager decides by the replicated state, and
// another node by workerRules.
func (n *Node) authorise(ctx context.Context, fullMethod string) error {
	peer, err := transport.FromContext(ctx)
	if err != nil {
		return err
	}
	if strings.HasPrefix(fullMethod, "/swarm.v1.Daemon/") {
		if peer.Local == nil {
			return errdefs.ErrPermissionDenied.WithMessage("init, join, leave and info work only on the host itself: run the command there")
		}
		return nil
	}
	m := n.current()
	if m == nil {
		return n.unservedError(fullMethod)
	}
	if manager, _ := m.currentManager(); manager != nil {
		err := manager.Authorise(ctx, fullMethod)
		if why := m.worker.Refusal(); errdefs.IsUnavailable(err) && why != nil { // Waiting does not help: the operator must act.
			return errdefs.ErrUnavailable.WithMessage("the cluster does not accept this node: " + innermostMessage(why))
		}
		return err
	}
	var may callerKinds
	longest := 0
	for prefix, who := range workerRules {
		if strings.HasPrefix(fullMethod, prefix) && len(prefix) > longest {
			may, longest = who, len(prefix)
		}
	}
	if m.isOneOf(peer, may) {
		return nil
	}
	return errdefs.ErrPermissionDenied.WithMessage(peer.String() + " may not call " + fullMethod + " on a worker")
}

// innermostMessage returns the message of an error without the prefixes that callers added.
func innermostMessage(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil || !strings.HasSuffix(err.Error(), ": "+inner.Error()) {
			return err.Error()
		}
		err = inner
	}
}

// unservedError returns the error for a method that this node does not serve, or does not serve
// yet.
func (n *Node) unservedError(fullMethod string) error {
	n.mu.Lock()
	m, loaded := n.member, n.loaded
	n.mu.Unlock()
	if m != nil && !isNodeService(fullMethod) {
		if err := m.managerRefusal(); err != nil {
			return err
		}
	}
	// The node has the role for this service, so the service will be registered soon.
	if !loaded || m != nil && (isNodeService(fullMethod) || m.membership().Manager) {
		return errdefs.ErrUnavailable.WithMessage("this node's daemon is starting: try again in a moment")
	}
	if m == nil && !isNodeService(fullMethod) && strings.HasPrefix(fullMethod, "/swarm.v1.") {
		return errdefs.ErrUnavailable.WithMessage("this node is not a swarm manager, and part of no cluster: run `swarm init` or `swarm join` first")
	}
	return notServedError(fullMethod)
}

// admit decides about every connection from another host, as authorise does about calls. A node
// that does not know the members yet accepts connections only from the managers that admitted it.
// Until then it serves no blobs either; a client fetches them from another node.
func (m *member) admit(proto string, peer transport.AuthInfo) (transport.Trust, error) {
	if manager, _ := m.currentManager(); manager != nil {
		return manager.Admit(proto, peer)
	}
	switch may := workerProtocols[proto]; {
	case m.isOneOf(peer, may&anyManager):
		return transport.Full, nil
	case m.isOneOf(peer, may):
		return transport.Worker, nil
	}
	return transport.Stranger, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("%s may not speak %s with a worker", peer, proto))
}

// isOneOf reports whether the peer is of one of the kinds.
func (m *member) isOneOf(peer transport.AuthInfo, kinds callerKinds) bool {
	if kinds&localUser != 0 && peer.Local != nil {
		return true
	}
	id := peer.NodeID()
	if id == "" || peer.Expired(time.Now()) {
		return false
	}
	holds := m.base.Members.Holds(id, peer.Peer.PublicKey()) || peer.Established && len(m.base.Members.Keys(id)) > 0
	if kinds&anyMember != 0 && holds {
		return true
	}
	return kinds&anyManager != 0 && (holds || !m.base.Members.Known()) &&
		slices.ContainsFunc(m.managers(), func(p Peer) bool { return p.NodeID == id })
}

// review checks all open connections and calls again.
func (m *member) review() {
	m.listener.Review()
	m.node.services.Review()
}

// reviewMembers calls review whenever the list of members changes.
func (m *member) reviewMembers(ctx context.Context) error {
	for {
		changed := m.base.Members.Changed()
		m.review()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}
