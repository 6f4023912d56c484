package assignment

import (
	"cmp"
	"hash/fnv"
	"slices"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// imageCopies is how many nodes keep a copy of a loaded image. With three, two hosts may be lost.
const imageCopies = 3

// imageNodes says which images each node must keep a copy of. It never changes after imageNodesOf
// has made it.
type imageNodes struct{ byNode map[string][]string }

// of returns the IDs of the images that a node keeps.
func (n *imageNodes) of(node string) []string { return n.byNode[node] }

// imageNodesOf chooses for every loaded image the nodes that keep it. The choice follows from the
// view alone, so all managers make the same choice.
func imageNodesOf(view *table.View) *imageNodes {
	out := &imageNodes{byNode: make(map[string][]string)}
	var ready []string
	for st := range view.NodeStates.All() {
		if n, ok := view.Nodes.Get(st.GetNodeId()); ok && st.GetState() == swarmv1.NodeState_READY &&
			n.GetSpec().GetAvailability() != swarmv1.NodeSpec_DRAIN && st.GetDescription().GetUnavailable() == "" {
			ready = append(ready, st.GetNodeId())
		}
	}
	for img := range view.Images.All() {
		if img.GetLoaded() {
			for _, node := range choose(view, img.GetDigest(), ready) {
				out.byNode[node] = append(out.byNode[node], img.GetId())
			}
		}
	}
	return out
}

// choose returns up to imageCopies nodes for an image. Nodes that hold it already come first, then
// the others by a hash of image and node, which spreads the images over the nodes.
func choose(view *table.View, digest string, ready []string) []string {
	type candidate struct {
		node  string
		holds bool
		hash  uint64
	}
	list := make([]candidate, 0, len(ready))
	for _, node := range ready {
		held, holds := view.ImageCopies.Get(table.Key(&swarmv1.ImageCopy{Digest: digest, NodeId: node}))
		holds = holds && !held.GetLeaving()
		h := fnv.New64a()
		_, _ = h.Write([]byte(digest + "/" + node))
		list = append(list, candidate{node, holds, h.Sum64()})
	}
	slices.SortFunc(list, func(a, b candidate) int {
		switch {
		case a.holds && !b.holds:
			return -1
		case b.holds && !a.holds:
			return 1
		}
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.node, b.node))
	})
	var out []string
	for _, c := range list[:min(imageCopies, len(list))] {
		out = append(out, c.node)
	}
	return out
}
