package ca

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/pki"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// SignManager signs a manager certificate for the key of the credential of a node. It needs only
// the replica of that node: no leader and no valid certificate. It returns errdefs.ErrUnavailable
// until the replica has the node as a manager, so the index in the certificate is never older than
// the promotion.
func SignManager(view *table.View, nodeID string, of pki.Credential, now time.Time) (pki.Credential, error) {
	c := view.Cluster()
	node, _ := view.Nodes.Get(nodeID)
	if c == nil || node.GetSpec().GetRole() != swarmv1.NodeSpec_MANAGER {
		return pki.Credential{}, errdefs.ErrUnavailable.WithMessage("sign manager certificate: this replica does not say that node " + nodeID + " is a manager")
	}
	root, _, err := signingRoot(c)
	if err != nil {
		return pki.Credential{}, fmt.Errorf("sign manager certificate: %w", err)
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
