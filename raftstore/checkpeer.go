package raftstore

import (
	"fmt"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// Hears says whether this member takes part in Raft with the holder of a manager's certificate that
// was issued at the given index. The error is of class permission denied. It does not block.
//
// The replica decides if it is as new as the certificate: a node without a row was removed, one
// with another role was demoted. An older replica knows nothing of a manager that came later, so
// the certificate decides: a manager that was away while all others were replaced is caught up by
// managers that it has never heard of. That costs no safety. Raft itself takes no vote and no
// leader from a member whose log or term is behind, and a former manager could sign itself any
// certificate, because it has held the key of the authority: only a new root shuts such a host out.
//
// A node that is still in Raft's configuration is heard whatever its row says. Its vote counts
// until the leader has taken it: members that stopped to hear a demoted leader at once would
// neither follow it nor win against its longer log, and the cluster would have no leader for good.
// The leader takes the vote right after the role or the row has gone.
//
// The key of the certificate is not compared with the row's. A replica that was read from an older
// snapshot knows an older key, and a manager signs its certificate itself, so that the comparison
// would keep nobody out.
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
