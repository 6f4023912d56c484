package worker

import (
	"context"

	"github.com/containerd/errdefs"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
)

// Network implements swarmv1.WorkerServer. It returns what Deps.InspectNetwork says of an overlay
// network, and the store index of the newest state that this node has applied. Deps.Network, which
// attaches tasks to networks, has no part in it.
func (w *Worker) Network(ctx context.Context, req *swarmv1.NodeNetworkRequest) (*swarmv1.NodeNetwork, error) {
	if w.deps.InspectNetwork == nil {
		return nil, errdefs.ErrNotImplemented.WithMessage("this node has no networks, because its containers are simulated")
	}
	if err := ident.CheckKey("network", req.GetId()); err != nil {
		return nil, err
	}
	// The index is read first, so that the answer is at least as new as the index says.
	index, _ := w.Seen()
	out, err := w.deps.InspectNetwork(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	out.Index = index
	return out, nil
}
