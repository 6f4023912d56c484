package raftstore

import (
	"fmt"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// CheckPeer returns nil if this member may exchange Raft messages with the node id, whose manager
// certificate was issued at log index issued. Otherwise it returns errdefs.ErrPermissionDenied. It
// does not block.
//
// If the replica is at least as new as the certificate, the replica decides: a node without a row
// was removed, and a node with another role was demoted. An older replica does not know managers
// that were added later, so the certificate decides. Thus a manager that was offline while all
// other managers were replaced can catch up from managers that it has never heard of. This is safe:
// Raft accepts no vote and no leader from a member whose log or term is behind. The check cannot
// exclude a former manager in any case: it has held the CA key and could forge a certificate. Only
// a new root excludes such a host.
//
// A node that is still in Raft's configuration is always accepted, because its vote counts until
// the leader has removed it. If members rejected a demoted leader at once, they would neither
// follow it nor win an election against its longer log, and the cluster would stay without a
// leader. The leader removes the vote right after the role changes or the row is deleted.
//
// The key of the certificate is not compared with the key in the node's row. A replica that was
// restored from an older snapshot knows an older key, and a manager signs its certificate itself,
// so the comparison would exclude nobody.
func (s *Store) CheckPeer(id string, issued uint64) error {
	view := s.View()
	if view.Cluster() == nil || issued > view.Index() {
		return nil
	}
	node, ok := view.Nodes.Get(id)
	if ok && node.GetSpec().GetRole() == swarmv1.NodeSpec_MANAGER {
		return nil
	}
	for _, sv := range s.servers() {
		if string(sv.ID) == id {
			return nil
		}
	}
	reason := "it was removed"
	if ok {
		reason = "it was demoted"
	}
	return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("node %s is not a manager of this cluster: %s", id, reason))
}
