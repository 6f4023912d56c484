package placement

import (
	"fmt"
	"slices"
	"strings"

	"swarm/internal/spec"
	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
)

// A volume whose files are on one node decides where its tasks run. The rule, for every volume with
// a name that a task of a replicated service mounts:
//
//  1. If a task of the same slot has been on a node because of the volume, the next one goes there;
//     if on several nodes, to the last of them.
//  2. If not, and a user or another service has made the volume on some nodes, the task goes to one
//     of these.
//  3. If not, the task goes to any node, and makes the volume there.
//
// So each of several replicas makes a volume of its own, as in Docker, and returns to it; and a
// service that mounts a volume which somebody made before finds that volume. A volume that a node
// has reported without either draws no task: a node could draw secrets to itself. The tasks of a
// job count as one slot. A task of a global service has only one node.

// binding is a volume, and the nodes on which a task finds it.
type binding struct {
	volume string
	nodes  []*cluster.Node // sorted by id, never empty
}

// bindings returns the volumes that decide where a task of the slot runs. The volumes of nodes that
// were removed do not count.
func (f *Finder) bindings(rev *cluster.Revision, slot cluster.SlotKey) []binding {
	var out []binding
	for _, v := range rev.VolumesOf(slot.Number) {
		rows := f.state.Volumes(v.Name)
		if slices.ContainsFunc(rows, func(row *swarmv1.Volume) bool { return row.GetNodeId() == "" }) {
			continue // every node mounts it from a file server
		}
		at := f.service.VolumeSlot(slot)
		rows = where(rows, f.exists)
		var found []*swarmv1.Volume
		if at.Returns {
			made := where(rows, func(row *swarmv1.Volume) bool { return !f.neverMade(row, slot) })
			if last, _ := cluster.LastUsed(made, f.service.ID, at.Number); last != nil {
				found = []*swarmv1.Volume{last}
			}
		}
		if len(found) == 0 {
			found = where(rows, func(row *swarmv1.Volume) bool {
				return row.GetAccepted() || row.GetMakerId() != "" && row.GetMakerId() != f.service.ID
			})
		}
		if len(found) > 0 {
			b := binding{volume: v.Name}
			for _, row := range found {
				b.nodes = append(b.nodes, f.state.Node(row.GetNodeId()))
			}
			out = append(out, b)
		}
	}
	return out
}

// exists reports whether the node that has the volume is in the cluster.
func (f *Finder) exists(row *swarmv1.Volume) bool {
	n := f.state.Node(row.GetNodeId())
	return n != nil && !n.Removed() && !spec.IsSharedVolume(row.GetDriver())
}

// where returns the rows that fit.
func where(rows []*swarmv1.Volume, fits func(*swarmv1.Volume) bool) (out []*swarmv1.Volume) {
	for _, row := range rows {
		if fits(row) {
			out = append(out, row)
		}
	}
	return out
}

// neverMade reports whether the volume has not been made, as far as the cluster knows: the node has
// not reported it, and has rejected all tasks of the slot that were placed there, for example
// because it could not get their image.
func (f *Finder) neverMade(row *swarmv1.Volume, slot cluster.SlotKey) bool {
	if row.GetReported() {
		return false
	}
	rejected := false
	for _, s := range f.service.Slots() {
		if s.Key != slot && !f.service.Job() {
			continue
		}
		for _, t := range s.Tasks {
			if t.Node != nil && t.Node.ID == row.GetNodeId() && !t.Unplaced() {
				if t.State() != swarmv1.TaskState_REJECTED {
					return false
				}
				rejected = true
			}
		}
	}
	return rejected
}

// findBound returns the best node that has all volumes.
func (f *Finder) findBound(rev *cluster.Revision, bound []binding) (*cluster.Node, *Explanation) {
	var candidates []*cluster.Node
	for _, n := range bound[0].nodes {
		if !slices.ContainsFunc(bound[1:], func(b binding) bool { return !slices.Contains(b.nodes, n) }) {
			candidates = append(candidates, n)
		}
	}
	failing, noImage := f.recentFailures(rev), f.nodesWithoutImage(rev)
	var best *cluster.Node
	var lowest uint64
	for _, n := range candidates {
		count := f.service.TasksOn(n)
		for _, o := range f.found {
			if o == n {
				count++
			}
		}
		if f.leaving(bound, n) || checkNode(rev, n, uint64(count), noImage) != fits {
			continue
		}
		if key := sortKey(n, count, failing[n] >= failureThreshold); best == nil || key < lowest {
			best, lowest = n, key
		}
	}
	if best != nil {
		return best, nil
	}
	return nil, f.explainBound(rev, bound, candidates)
}

// leaving reports whether one of the volumes is leaving the node.
func (f *Finder) leaving(bound []binding, n *cluster.Node) bool {
	return slices.ContainsFunc(bound, func(b binding) bool {
		return slices.ContainsFunc(f.state.Volumes(b.volume), func(row *swarmv1.Volume) bool {
			return row.GetNodeId() == n.ID && cluster.Leaving(row)
		})
	})
}

// explainBound returns why no node that has all volumes takes a task.
func (f *Finder) explainBound(rev *cluster.Revision, bound []binding, candidates []*cluster.Node) *Explanation {
	v := f.explain(rev, candidates)
	var texts, names []string
	for _, b := range bound {
		names = append(names, b.volume)
		var places []string
		for _, n := range b.nodes {
			place := n.Name()
			if f.leaving([]binding{b}, n) {
				place += " (it is being moved to another node)"
			} else if slices.Contains(candidates, n) {
				place += " (" + f.describeNode(rev, n) + ")"
			}
			places = append(places, place)
		}
		texts = append(texts, fmt.Sprintf("volume %s is on %s", b.volume, strings.Join(places, " and ")))
	}
	v.Err = "no suitable node (" + strings.Join(texts, "; ") + ")"
	if others := len(f.state.Nodes()) - len(candidates); others > 0 {
		v.Unplaced.Refusals = append(v.Unplaced.Refusals, &swarmv1.Refusal{
			Filter: "volume", Nodes: uint32(others), Reason: phrase("volume "+strings.Join(names, ", ")+" not on %s", uint32(others)),
		})
	}
	v.Unplaced.Nearest = strings.Join(texts, "; ")
	if len(candidates) > 0 && !slices.ContainsFunc(candidates, func(n *cluster.Node) bool { return !n.Down() }) {
		v.Unplaced.Nearest += fmt.Sprintf("; bring it back, or give the volume up with `swarm volume rm --force --node %s %s`", candidates[0].Name(), names[0])
	}
	return v
}

// describeNode returns why a node does not take a task of the revision, as a sentence.
func (f *Finder) describeNode(rev *cluster.Revision, n *cluster.Node) string {
	noImage, count := f.nodesWithoutImage(rev), f.tasksOn(rev, n)
	switch why := checkNode(rev, n, count, noImage); why {
	case refusedImage:
		return noImage[n].Status.GetErr()
	case refusedPort:
		return describeRefusal(rev, why, n, count)
	default:
		return "it " + describeRefusal(rev, why, n, count)
	}
}
