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
	"swarm/raftstore"
)

// loadedCopies of a loaded image stay: no registry can give it again.
const loadedCopies = 3

const (
	// releaseBurst and releaseEvery bound for how many images one node may ask, each of which is a
	// write of the leader's. A node whose disk is full asks for all that it can spare.
	releaseBurst = 256
	releaseEvery = 250 * time.Millisecond
)

// Release gives a node leave to remove images. What is granted stands in the replicated state
// before the node hears of it, with the other copies as they were counted: of two nodes that ask at
// once, the second is judged by what the first got.
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
			if len(out.Granted) > 0 { // The node must hear of them, and asks again for the others.
				return out, nil
			}
			return nil, errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("release images: node %s asks too often: try again in %s", node, wait.Round(time.Millisecond)))
		}
		granted := false
		_, err := s.writer.Write(ctx, 0, func(v *raftstore.View) (changes []*swarmv1.Change, _ error) {
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

// release judges whether a node may give up its copy, and makes the change that says so. The copies
// that must stay are written as they are: the change fails if one of them goes at the same time.
func release(v *raftstore.View, node, digest string, undo bool) (changes []*swarmv1.Change, granted bool) {
	own := &swarmv1.ImageCopy{Digest: digest, NodeId: node}
	row, recorded := v.ImageCopies.Get(raftstore.Key(own))
	if undo {
		if !recorded || !row.GetLeaving() {
			return nil, false
		}
		own = row.CloneVT()
		own.Leaving = false
		return []*swarmv1.Change{raftstore.Update(own)}, false
	}
	if len(object.ImageUsers(v, digest)) > 0 {
		return nil, false
	}
	need := copiesToStay(v, digest)
	if !recorded { // Nobody counts on this copy, and a row of a digest that is needed is not made on a node's word.
		return nil, need == 0
	}
	own = row.CloneVT()
	own.Leaving = true
	changes = append(changes, raftstore.Update(own))
	for c := range v.ImageCopies.Prefix(digest + "/") {
		if need == 0 {
			break
		}
		if st, _ := v.NodeStates.Get(c.GetNodeId()); c.GetNodeId() != node && !c.GetLeaving() && st.GetState() == swarmv1.NodeState_READY {
			changes = append(changes, raftstore.Update(c.CloneVT()))
			need--
		}
	}
	if need > 0 {
		return nil, false
	}
	return changes, true
}

// copiesToStay is how many other nodes must hold a digest: as many as are kept of a loaded image,
// and one of an image that a service can still be rolled back to.
func copiesToStay(v *raftstore.View, digest string) int {
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
