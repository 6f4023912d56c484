package node

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/transport"
)

// authorise judges every call that reaches this node. A manager judges by the replicated state; a worker by the little
// that it knows: its managers may ask for logs and the like, this host's users about this host, and any node for a probe.
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
	switch {
	case fullMethod == "/swarm.v1.Doctor/Survey" && peer.Local != nil:
		return nil
	case fullMethod == "/swarm.v1.Doctor/Probe" && peer.NodeID() != "" && !peer.Expired(time.Now()):
		return nil // Whether it is a member still, the handler knows by gossip.
	}
	fromManager := slices.ContainsFunc(m.managers(), func(p Peer) bool { return p.NodeID == peer.NodeID() })
	forManagers := strings.HasPrefix(fullMethod, "/swarm.v1.Worker/") || strings.HasPrefix(fullMethod, "/swarm.v1.Disk/")
	if forManagers && fromManager && !peer.Expired(time.Now()) {
		return nil
	}
	return errdefs.ErrPermissionDenied.WithMessage(peer.String() + " may not call " + fullMethod + " on a worker")
}
