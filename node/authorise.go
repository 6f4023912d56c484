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

// Who may call a node that is no manager. It holds no rows: it knows its managers as they last told
// it, and the keys of all members.
type workerCaller uint8

const (
	byLocal   workerCaller = 1 << iota // this host's socket
	byManager                          // a manager of the cluster
	byMember                           // any node of the cluster, the managers among them
)

// workerRules is the table of what a node that is no manager serves, by the prefix of the method.
// The longest counts.
var workerRules = map[string]workerCaller{
	"/swarm.v1.Daemon/":       byLocal,
	"/swarm.v1.Worker/":       byManager,
	"/swarm.v1.Disk/":         byManager,
	"/swarm.v1.Doctor/Survey": byLocal,
	"/swarm.v1.Doctor/Probe":  byMember,
}

// workerProtocols is the table of the connections that a node takes which is no manager. The rest
// is refused at accept.
var workerProtocols = map[string]workerCaller{
	transport.ProtoGRPC: byMember | byManager,
	transport.ProtoBlob: byMember,
}

// authorise judges every call that reaches this node. A manager judges by the replicated state;
// another node by workerRules.
func (n *Node) authorise(ctx context.Context, fullMethod string) error {
	peer, err := transport.FromContext(ctx)
	if err != nil {
		return err
	}
	if strings.HasPrefix(fullMethod, "/swarm.v1.Daemon/") {
		if peer.Local == nil {
			return errdefs.ErrPermissionDenied.WithMessage("init, join, leave and info concern one host: run them there")
		}
		return nil
	}
	m := n.current()
	if m == nil {
		return n.absent(fullMethod)
	}
	if manager, _ := m.managing(); manager != nil {
		err := manager.Authorise(ctx, fullMethod)
		if why := m.worker.Refusal(); errdefs.IsUnavailable(err) && why != nil { // It will not be ready by itself.
			return errdefs.ErrUnavailable.WithMessage("the cluster does not take this node in: " + innermost(why))
		}
		return err
	}
	var may workerCaller
	longest := 0
	for prefix, who := range workerRules {
		if strings.HasPrefix(fullMethod, prefix) && len(prefix) > longest {
			may, longest = who, len(prefix)
		}
	}
	if m.isOne(peer, may) {
		return nil
	}
	return errdefs.ErrPermissionDenied.WithMessage(peer.String() + " may not call " + fullMethod + " on a worker")
}

// innermost is an error without what its callers have put in front of it.
func innermost(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil || !strings.HasSuffix(err.Error(), ": "+inner.Error()) {
			return err.Error()
		}
		err = inner
	}
}

// absent says why this node does not serve a method: the part that would is not there, or not yet.
func (n *Node) absent(fullMethod string) error {
	n.mu.Lock()
	m, resumed := n.member, n.resumed
	n.mu.Unlock()
	// A service that this node's role has is about to be registered.
	if !resumed || m != nil && (ofEveryNode(fullMethod) || m.remembered().Manager) {
		return errdefs.ErrUnavailable.WithMessage("this node's daemon is starting: try again in a moment")
	}
	if m == nil && !ofEveryNode(fullMethod) && strings.HasPrefix(fullMethod, "/swarm.v1.") {
		return errdefs.ErrUnavailable.WithMessage("this node is not a swarm manager, and part of no cluster: run `swarm init` or `swarm join` first")
	}
	return notHere(fullMethod)
}

// admit judges every connection of another host, as authorise judges calls. A node that does not
// know the members yet takes connections of the managers that let it in, and serves blobs to
// nobody: whoever wants one asks another node.
func (m *member) admit(proto string, peer transport.AuthInfo) (transport.Trust, error) {
	if manager, _ := m.managing(); manager != nil {
		return manager.Admit(proto, peer)
	}
	switch may := workerProtocols[proto]; {
	case m.isOne(peer, may&byManager):
		return transport.Full, nil
	case m.isOne(peer, may):
		return transport.Worker, nil
	}
	return transport.Stranger, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("%s may not speak %s with a worker", peer, proto))
}

// isOne says whether a peer is one of those.
func (m *member) isOne(peer transport.AuthInfo, of workerCaller) bool {
	if of&byLocal != 0 && peer.Local != nil {
		return true
	}
	id := peer.NodeID()
	if id == "" || peer.Expired(time.Now()) {
		return false
	}
	holds := m.base.Members.Holds(id, peer.Peer.PublicKey()) || peer.Running && len(m.base.Members.Keys(id)) > 0
	if of&byMember != 0 && holds {
		return true
	}
	return of&byManager != 0 && (holds || !m.base.Members.Known()) &&
		slices.ContainsFunc(m.managers(), func(p Peer) bool { return p.NodeID == id })
}

// review judges all connections and calls again.
func (m *member) review() {
	m.listener.Review()
	m.node.services.Review()
}

// reviewMembers reviews whenever the list of members has changed.
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
