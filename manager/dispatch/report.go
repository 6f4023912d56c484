package dispatch

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/facts"
	"swarm/internal/publish"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// owner says which report a group of changes comes from.
type owner struct {
	entry    *entry
	isStatus bool // the group writes the status of a task
}

// groups returns one group for each row that the entries change, and the owner of each group. The
// store accepts or rejects each group by itself.
func (c *committer) groups(view *table.View, entries []*entry) (groups []*swarmv1.Group, owners []owner) {
	last := make(map[string]int) // by task id, the index of its newest group
	for _, e := range entries {
		for _, st := range statuses(view, e, time.Now()) {
			group, from := table.Group(table.Report(st)), owner{entry: e, isStatus: true}
			if at, double := last[st.GetTaskId()]; double {
				groups[at], owners[at] = group, from
				continue
			}
			last[st.GetTaskId()] = len(groups)
			groups, owners = append(groups, group), append(owners, from)
		}
		rows := append(copiesOf(view, e), volumesOf(view, e)...)
		if len(rows) > 0 {
			c.copies.TakeN(e.session.node, len(rows))
		}
		for _, change := range append(descriptions(view, e), rows...) {
			groups, owners = append(groups, table.Group(change)), append(owners, owner{entry: e})
		}
	}
	return groups, owners
}

// statuses returns the updates of an entry that may be stored: those of tasks on the session's
// node, unless the task has ended already with another state. Each update gets the epoch of the
// session and the sequence of the report, loses the ports that its task does not publish, and has
// its times in the future set to now.
func statuses(view *table.View, e *entry, now time.Time) []*swarmv1.TaskStatus {
	var out []*swarmv1.TaskStatus
	for _, st := range e.status.GetUpdates() {
		t, ok := view.Tasks.Get(st.GetTaskId())
		if !ok || t.GetNodeId() != e.session.node {
			continue
		}
		if was := view.Status(t.GetId()).GetState(); task.Terminal(was) && st.GetState() != was {
			continue
		}
		st = st.CloneVT()
		st.Meta, st.SessionEpoch, st.Sequence = nil, e.session.epoch, e.status.GetSequence()
		st.PortStatus = published(view, t, st.GetPortStatus())
		st.Timestamp, st.RunningSince = notAfter(now, st.GetTimestamp()), notAfter(now, st.GetRunningSince())
		out = append(out, st)
	}
	return out
}

// published returns the reported ports that the task publishes on its node, each once.
func published(view *table.View, t *swarmv1.Task, reported []*swarmv1.PortConfig) []*swarmv1.PortConfig {
	rev, _ := view.Revision(t.GetServiceId(), t.GetRevision())
	wanted := slices.Clone(rev.GetSpec().GetEndpointSpec().GetPorts())
	return slices.DeleteFunc(reported, func(p *swarmv1.PortConfig) bool {
		i := slices.IndexFunc(wanted, func(w *swarmv1.PortConfig) bool { return publish.Serves(p, w) })
		if i >= 0 {
			wanted = slices.Delete(wanted, i, i+1)
		}
		return i < 0
	})
}

// notAfter returns the earlier time. A worker's clock may be fast.
func notAfter(now time.Time, t *timestamppb.Timestamp) *timestamppb.Timestamp {
	if t != nil && t.AsTime().After(now) {
		return timestamppb.New(now)
	}
	return t
}

// descriptions returns the change of the node's row, if the description is another one. What draws
// tasks to the node stays as it was accepted.
func descriptions(view *table.View, e *entry) []*swarmv1.Change {
	if e.description == nil {
		return nil
	}
	row, ok := view.NodeStates.Get(e.session.node)
	if !ok || row.GetSessionEpoch() > e.session.epoch {
		return nil
	}
	next := row.CloneVT()
	next.Description, next.Pending = facts.Hold(row.GetDescription(), e.description)
	if next.EqualVT(row) {
		return nil
	}
	return []*swarmv1.Change{table.Update(next)}
}

// copiesOf returns the changes that make the rows of the node's image copies equal to the report.
func copiesOf(view *table.View, e *entry) []*swarmv1.Change {
	if e.images == nil {
		return nil
	}
	node := e.session.node
	var out []*swarmv1.Change
	held := make(map[string]bool)
	for _, digest := range e.images.GetHeld() {
		held[digest] = true
		c := &swarmv1.ImageCopy{Digest: digest, NodeId: node}
		if _, ok := view.ImageCopies.Get(table.Key(c)); !ok {
			out = append(out, table.Create(c))
		}
	}
	for c := range view.ImageCopies.All() {
		if c.GetNodeId() == node && !held[c.GetDigest()] {
			out = append(out, table.DeleteKey(table.ImageCopy, table.Key(c)))
		}
	}
	return out
}
