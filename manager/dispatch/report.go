package dispatch

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/pause"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

const (
	// maxGroups of one commit: 2,000 statuses are about 400 KB.
	maxGroups    = 2000
	commitPause  = 50 * time.Millisecond
	commitPauses = 5 // doublings of commitPause
)

// entry is one report of a worker: exactly one of the last three is set.
type entry struct {
	session     *session
	status      *swarmv1.StatusReport
	description *swarmv1.NodeDescription
	images      *swarmv1.ImageReport
}

// committer writes what workers report. Whatever queues up while a commit is on its way makes the next one.
type committer struct {
	log   *slog.Logger
	store *raftstore.Store
	wake  chan struct{} // capacity 1

	mu    sync.Mutex // guards queue
	queue []entry
}

func newCommitter(log *slog.Logger, store *raftstore.Store) *committer {
	return &committer{log: log, store: store, wake: make(chan struct{}, 1)}
}

func (c *committer) add(entries ...entry) {
	c.mu.Lock()
	c.queue = append(c.queue, entries...)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// take removes entries up to about maxGroups changes from the queue, oldest first.
func (c *committer) take() []entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, size := 0, 0
	for n < len(c.queue) && size < maxGroups {
		size += 1 + len(c.queue[n].status.GetUpdates()) + len(c.queue[n].images.GetHeld())
		n++
	}
	out := c.queue[:n:n]
	c.queue = c.queue[n:]
	return out
}

func (c *committer) run(ctx context.Context) error {
	for {
		entries := c.take()
		if len(entries) == 0 {
			select {
			case <-c.wake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		c.commit(ctx, entries)
	}
}

// commit writes the entries, for as long as it takes: their workers wait for the acknowledgement and send nothing twice.
func (c *committer) commit(ctx context.Context, entries []entry) {
	var again []entry
	var index uint64
	for attempt := 0; ctx.Err() == nil; attempt++ {
		groups, owners := c.groups(c.store.View(), entries)
		results := make([]error, len(groups))
		var err error
		if len(groups) > 0 {
			index, results, err = c.store.CommitGroups(ctx, "dispatch", groups)
		}
		if err == nil {
			for i, r := range results {
				if e := entries[owners[i]]; c.judge(e, r) {
					again = append(again, entry{session: e.session, description: e.description, images: e.images})
				}
			}
			break
		}
		if ctx.Err() == nil {
			c.log.Warn("reports of workers wait for the leader", "attempt", attempt, "err", err)
			_ = pause.For(ctx, commitPause<<min(attempt, commitPauses))
		}
	}
	if ctx.Err() != nil {
		return
	}
	for _, e := range entries {
		if e.status != nil {
			e.session.ack(e.status.GetSequence())
		}
	}
	if len(again) > 0 {
		if _, err := c.store.WaitIndex(ctx, index); err == nil { // or they would be made from the same rows again
			c.add(again...)
		}
	}
}

// judge tells whether a rejected group is to be made anew. A status that is not newer, or of a task that is gone, is of
// no more use. A description was made from a row that has changed since: it is still the newest word of the worker.
func (c *committer) judge(e entry, err error) bool {
	switch {
	case err == nil || e.status != nil:
		if err != nil && !errdefs.IsAborted(err) && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
			c.log.Warn("task status was not stored", "node", e.session.node, "err", err)
		}
		return false
	case e.session.reason() != nil || errdefs.IsNotFound(err):
		return false
	}
	return errdefs.IsAborted(err) && e.description != nil || errdefs.IsAlreadyExists(err) && e.images != nil
}

// groups makes one group of each row, since each is judged alone; owners are the entries that they belong to.
func (c *committer) groups(view *raftstore.View, entries []entry) (groups []*swarmv1.Group, owners []int) {
	last := make(map[string]int) // task id -> its group
	for i, e := range entries {
		for _, st := range statuses(view, e) {
			group := &swarmv1.Group{Changes: []*swarmv1.Change{raftstore.Report(st)}}
			if at, double := last[st.GetTaskId()]; double {
				groups[at], owners[at] = group, i
				continue
			}
			last[st.GetTaskId()] = len(groups)
			groups, owners = append(groups, group), append(owners, i)
		}
		for _, change := range append(descriptions(view, e), copiesOf(view, e)...) {
			groups, owners = append(groups, &swarmv1.Group{Changes: []*swarmv1.Change{change}}), append(owners, i)
		}
	}
	return groups, owners
}

// statuses are the updates that may be stored: of tasks that are this node's, stamped with the session's order, and not
// from one end to another, or back to life.
func statuses(view *raftstore.View, e entry) []*swarmv1.TaskStatus {
	var out []*swarmv1.TaskStatus
	for _, st := range e.status.GetUpdates() {
		t, ok := present(view.Tasks.Get(st.GetTaskId()))
		if !ok || t.GetNodeId() != e.session.node {
			continue
		}
		if was := view.Status(t.GetId()).GetState(); task.Terminal(was) && st.GetState() != was {
			continue
		}
		st = st.CloneVT()
		st.Meta, st.SessionEpoch, st.Sequence = nil, e.session.epoch, e.status.GetSequence()
		out = append(out, st)
	}
	return out
}

// descriptions is the change of the node's row, when there is one.
func descriptions(view *raftstore.View, e entry) []*swarmv1.Change {
	if e.description == nil {
		return nil
	}
	row, ok := present(view.NodeStates.Get(e.session.node))
	if !ok || row.GetSessionEpoch() > e.session.epoch || row.GetDescription().EqualVT(e.description) {
		return nil
	}
	next := row.CloneVT()
	next.Description = e.description
	return []*swarmv1.Change{raftstore.Update(next)}
}

// copiesOf are the changes that make the node's image copies as reported.
func copiesOf(view *raftstore.View, e entry) []*swarmv1.Change {
	if e.images == nil {
		return nil
	}
	node := e.session.node
	var out []*swarmv1.Change
	held := make(map[string]bool)
	for _, digest := range e.images.GetHeld() {
		held[digest] = true
		c := &swarmv1.ImageCopy{Digest: digest, NodeId: node}
		if _, ok := view.ImageCopies.Get(raftstore.Key(c)); !ok {
			out = append(out, raftstore.Create(c))
		}
	}
	gone := make(map[string]bool)
	for _, digest := range e.images.GetGone() {
		gone[digest] = true
	}
	for c := range view.ImageCopies.All() {
		if c.GetNodeId() == node && !held[c.GetDigest()] && (e.images.GetComplete() || gone[c.GetDigest()]) {
			out = append(out, raftstore.DeleteKey(raftstore.TableImageCopy, fmt.Sprintf("%s/%s", c.GetDigest(), node)))
		}
	}
	return out
}
