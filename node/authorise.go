package node

import (
	"context"
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
		return notHere(fullMethod)
	}
	if manager, _ := m.managing(); manager != nil {
		return manager.Authorise(ctx, fullMethod)
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
