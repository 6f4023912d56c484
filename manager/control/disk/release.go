package disk

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/bounds"
	"swarm/internal/transport"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// loadedCopies is how many copies of a loaded image remain, because no registry has it.
const loadedCopies = 3

const (
	// releaseBurst and releaseEvery limit how many images one node may release, because each is a
	// write to the log. A node whose disk is full asks for all images that it does not need.
	releaseBurst = 256
	releaseEvery = 250 * time.Millisecond
)

// Release permits the calling node to remove those images of the request that it may remove, or
// takes permissions back. It writes a permission to the replicated state before the node receives
// it. The same group rewrites the rows of the copies that must remain, unchanged. So if two nodes
// ask at the same time, the store rejects the second group, and Release decides again with a view
// that has the permission of the first node.
//
// It returns ErrResourceExhausted if the node asks too often.
func (s *Server) Release(ctx context.Context, req *swarmv1.ReleaseRequest) (*swarmv1.ReleaseResponse, error) {
	who, err := transport.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	node, out := who.NodeID(), &swarmv1.ReleaseResponse{}
	if n := len(req.GetDigests()); n > bounds.MaxRelease || len(bounds.Digests(req.GetDigests(), n)) < n {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("release images: %d digests are named; at most %d are allowed, and all must be valid", n, bounds.MaxRelease))
	}
	for _, digest := range req.GetDigests() {
		if wait := s.releases.Take(node); wait > 0 {
			if len(out.Granted) > 0 { // The node must receive these. It asks again for the others.
				return out, nil
			}
			return nil, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("release images: node %s asks too often: try again in %s", node, wait.Round(time.Millisecond)))
		}
		granted := false
		_, err := s.writer.Write(ctx, 0, func(v *table.View) (changes []*swarmv1.Change, _ error) {
			changes, granted = release(v, node, digest, req.GetUndo())
			return changes, nil
		})
		if err != nil && !errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("release image %s: %w", digest, err)
		}
		if err == nil && granted {
			out.Granted = append(out.Granted, digest)
		}
	}
	return out, nil
}

// release decides whether a node may remove its copy of a digest, and returns the changes that
// permit it. They also rewrite the rows of the copies that must remain, unchanged, so that the
// commit fails if another node gets the permission to remove one of these copies at the same time.
// With undo, they take a permission back.
func release(v *table.View, node, digest string, undo bool) (changes []*swarmv1.Change, granted bool) {
	own := &swarmv1.ImageCopy{Digest: digest, NodeId: node}
	row, recorded := v.ImageCopies.Get(table.Key(own))
	if undo {
		if !recorded || !row.GetLeaving() {
			return nil, false
		}
		own = row.CloneVT()
		own.Leaving = false
		return []*swarmv1.Change{table.Update(own)}, false
	}
	if len(object.ImageUsers(v, digest)) > 0 {
		return nil, false
	}
	need := copiesToStay(v, digest)
	// Without a row for the node's copy, nothing can record the permission. The node gets one only
	// if no copy must remain.
	if !recorded {
		return nil, need == 0
	}
	own = row.CloneVT()
	own.Leaving = true
	changes = append(changes, table.Update(own))
	for c := range v.ImageCopies.Prefix(digest + "/") {
		if need == 0 {
			break
		}
		if st, _ := v.NodeStates.Get(c.GetNodeId()); c.GetNodeId() != node && !c.GetLeaving() && st.GetState() == swarmv1.NodeState_READY {
			changes = append(changes, table.Update(c.CloneVT()))
			need--
		}
	}
	if need > 0 {
		return nil, false
	}
	return changes, true
}

// copiesToStay returns how many other nodes must hold a digest: loadedCopies if the image was
// loaded, one if a revision of a service still has it, and none in all other cases.
func copiesToStay(v *table.View, digest string) int {
	if _, loaded := object.ImageNames(v, digest); loaded {
		return loadedCopies
	}
	for rev := range v.Revisions.All() {
		if object.RunsImage(v, rev.GetServiceId(), rev.GetNumber(), digest) {
			return 1
		}
	}
	return 0
}
