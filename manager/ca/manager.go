package ca

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// SignManager signs, for the key of a node's credential, the certificate which says that the node
// is a manager. It needs nothing but the replica of that node: no leader, and no certificate that
// is still valid. It fails with errdefs.ErrUnavailable until the replica says that the node is a
// manager, so that the index in the certificate is never older than the promotion.
func SignManager(view *table.View, nodeID string, of pki.Credential, now time.Time) (pki.Credential, error) {
	c := view.Cluster()
	node, _ := view.Nodes.Get(nodeID)
	if c == nil || node.GetSpec().GetRole() != swarmv1.NodeSpec_MANAGER {
		return pki.Credential{}, errdefs.ErrUnavailable.WithMessage("sign a manager's certificate: this replica does not say that node " + nodeID + " is a manager")
	}
	root, _, err := signingRoot(c)
	if err != nil {
		return pki.Credential{}, fmt.Errorf("sign a manager's certificate: %w", err)
	}
	csr, err := pki.CreateCSR(of.Key)
	if err != nil {
		return pki.Credential{}, err
	}
	cert, err := root.SignManager(csr, pki.Manager{NodeID: nodeID, Issued: view.Index()}, validity(c), now)
	if err != nil {
		return pki.Credential{}, err
	}
	return pki.NewCredential(cert, of.Key)
}
