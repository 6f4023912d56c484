package dispatch

import (
	"hash/fnv"
	"slices"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// copies of a loaded image that the cluster keeps: two hosts may be lost.
const copies = 3

// keepers says which images each node must keep a copy of.
type keepers struct{ byNode map[string][]string }

func (k *keepers) of(node string) []string {
	if k == nil {
		return nil
	}
	return k.byNode[node]
}

// keepersOf chooses for every loaded image the nodes that keep it: a pure function of the view, so that all managers
// choose alike. Nodes that hold it already come first, then others in an order of their own for each image.
func keepersOf(view *raftstore.View) *keepers {
	k := &keepers{byNode: make(map[string][]string)}
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
				k.byNode[node] = append(k.byNode[node], img.GetId())
			}
		}
	}
	return k
}

func choose(view *raftstore.View, digest string, ready []string) []string {
	type candidate struct {
		node  string
		holds bool
		hash  uint64
	}
	list := make([]candidate, 0, len(ready))
	for _, node := range ready {
		held, holds := view.ImageCopies.Get(raftstore.Key(&swarmv1.ImageCopy{Digest: digest, NodeId: node}))
		holds = holds && !held.GetLeaving()
		h := fnv.New64a()
		_, _ = h.Write([]byte(digest + "/" + node))
		list = append(list, candidate{node, holds, h.Sum64()})
	}
	slices.SortFunc(list, func(a, b candidate) int {
		switch {
		case a.holds != b.holds && a.holds:
			return -1
		case a.holds != b.holds:
			return 1
		case a.hash != b.hash && a.hash < b.hash:
			return -1
		case a.hash != b.hash:
			return 1
		}
		return strings.Compare(a.node, b.node)
	})
	var out []string
	for _, c := range list[:min(copies, len(list))] {
		out = append(out, c.node)
	}
	return out
}
