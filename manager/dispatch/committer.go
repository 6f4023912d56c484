package dispatch

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/bounds"
	"swarm/internal/logsample"
	"swarm/internal/pace"
	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

const (
	// maxGroups bounds one commit: 2,000 statuses are about 400 KB.
	maxGroups = 2000
	// commitPause follows a commit that failed. It doubles up to commitPauses times.
	commitPause  = 50 * time.Millisecond
	commitPauses = 5
	// maxFailures is how often an entry may fail alone while others are committed.
	maxFailures = 3
	// replicaTimeout bounds the wait for this replica to have what was just committed.
	replicaTimeout = 5 * time.Second
)

// How much of each node's reports is committed, however often the node opens a session: the burst
// at once, and one unit more in each period. Of descriptions and image reports only the newest
// counts, so that an honest worker loses nothing when it waits.
var (
	factsPace  = pace.Budget{Burst: 20, Period: 500 * time.Millisecond}                // descriptions and image reports
	statusPace = pace.Budget{Burst: 8 << 20, Period: time.Second / (512 << 10)}        // bytes of task statuses
	copiesPace = pace.Budget{Burst: 2 * bounds.MaxHeld, Period: 10 * time.Millisecond} // image copies that come or go
)

// entry is what the worker of one session has reported and the store does not have yet. It has at
// most one report of each kind: of descriptions and image reports only the newest counts, and a
// worker waits for the acknowledgement of a status report. The number of sessions therefore bounds
// the queue.
type entry struct {
	session     *session
	status      *swarmv1.StatusReport
	description *swarmv1.NodeDescription
	images      *swarmv1.ImageReport

	failures int    // how often the entry failed alone
	since    uint64 // the number of commits that had succeeded when it first failed alone
}

// describesNode reports whether the entry has a description or an image report.
func (e *entry) describesNode() bool { return e.description != nil || e.images != nil }

// changes estimates how many changes the entry makes.
func (e *entry) changes() int {
	return 1 + len(e.status.GetUpdates()) + len(e.images.GetHeld())
}

// addOlder adds the reports of an older entry of the same session of which this one has none.
func (e *entry) addOlder(older *entry) {
	if e.status == nil {
		e.status = older.status
	}
	if e.description == nil {
		e.description = older.description
	}
	if e.images == nil {
		e.images = older.images
	}
	e.failures, e.since = older.failures, older.since
}

// store is what a committer needs of the store. Tests have another one.
type store interface {
	View() *table.View
	CommitGroups(ctx context.Context, actor string, groups []*swarmv1.Group) (uint64, []error, error)
	WaitIndex(ctx context.Context, index uint64) (*table.View, error)
}

// committer writes what workers report. The entries that come during one commit make the next one.
// When a commit fails, the next one has half as many entries, and so on, until an entry that cannot
// be committed is alone. That entry is tried again after the others, and then dropped. So no report
// holds up the others for long.
type committer struct {
	log     *slog.Logger
	sampled *logsample.Sampler
	store   store
	wake    chan struct{} // capacity 1

	facts, statusBytes, copies *pace.Each[string] // by node

	mu      sync.Mutex          // guards what follows
	waiting map[*session]*entry // one for each session
	queue   []*session          // of waiting, oldest first

	// The goroutine of run alone uses the rest.
	batch     int    // how many entries the next commit may have
	succeeded uint64 // commits that succeeded
	failing   int    // commits that failed in a row
}

func newCommitter(log *slog.Logger, store store) *committer {
	return &committer{
		log: log, sampled: logsample.New(log), store: store, wake: make(chan struct{}, 1),
		facts: pace.New[string](factsPace), statusBytes: pace.New[string](statusPace), copies: pace.New[string](copiesPace),
		waiting: make(map[*session]*entry), batch: maxGroups,
	}
}

// add queues a report. It replaces what it makes out of date.
func (c *committer) add(e *entry) {
	c.mu.Lock()
	if older := c.waiting[e.session]; older != nil {
		e.addOlder(older)
	} else {
		c.queue = append(c.queue, e.session)
	}
	c.waiting[e.session] = e
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// putBack returns entries that were not committed to the front of the queue, or behind all others.
func (c *committer) putBack(entries []*entry, front bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var again []*session
	for _, e := range entries {
		if newer := c.waiting[e.session]; newer != nil {
			newer.addOlder(e)
			continue
		}
		c.waiting[e.session] = e
		again = append(again, e.session)
	}
	if front {
		c.queue = append(again, c.queue...)
	} else {
		c.queue = append(c.queue, again...)
	}
}

// take removes up to c.batch entries with about maxGroups changes from the queue, oldest first.
// Reports of nodes that report too often stay; the first of them may be taken after wait.
func (c *committer) take() (out []*entry, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size, stay := 0, c.queue[:0:0]
	for i, x := range c.queue {
		if len(out) >= c.batch || size >= maxGroups {
			stay = append(stay, c.queue[i:]...)
			break
		}
		e := c.waiting[x]
		delete(c.waiting, x)
		later, w := c.holdBack(e)
		if w > 0 && !x.closed() { // the node's next session reports everything again
			c.waiting[x], stay = later, append(stay, x)
			if wait == 0 || w < wait {
				wait = w
			}
		}
		if e.status == nil && !e.describesNode() {
			continue
		}
		size += e.changes()
		out = append(out, e)
	}
	c.queue = stay
	return out, wait
}

// holdBack moves the reports that a node makes too often from an entry to later. It returns the
// shortest time that one of them has to wait.
func (c *committer) holdBack(e *entry) (later *entry, wait time.Duration) {
	node := e.session.node
	later = &entry{session: e.session, failures: e.failures, since: e.since}
	over := func(w time.Duration) bool {
		if w > 0 && (wait == 0 || w < wait) {
			wait = w
		}
		return w > 0
	}
	if e.status != nil && over(c.statusBytes.TakeN(node, e.status.SizeVT())) {
		e.status, later.status = nil, e.status
	}
	if e.images != nil && over(c.copies.TakeN(node, 0)) { // groups spends as many as really change
		e.images, later.images = nil, e.images
	}
	if e.describesNode() && over(c.facts.Take(node)) {
		e.description, later.description = nil, e.description
		if e.images != nil {
			e.images, later.images = nil, e.images
		}
	}
	return later, wait
}

// run commits what is queued until ctx ends.
func (c *committer) run(ctx context.Context) error {
	for ctx.Err() == nil {
		entries, wait := c.take()
		if len(entries) > 0 {
			c.commit(ctx, entries)
			continue
		}
		var due <-chan time.Time
		if wait > 0 {
			due = time.After(max(wait, commitPause))
		}
		select {
		case <-c.wake:
		case <-due:
		case <-ctx.Done():
		}
	}
	return nil
}

// commit writes the entries, or puts them back.
func (c *committer) commit(ctx context.Context, entries []*entry) {
	err := c.write(ctx, entries)
	switch {
	case ctx.Err() != nil:
		return
	case err == nil:
		c.succeeded++
		c.failing, c.batch = 0, min(2*c.batch, maxGroups)
		return
	case len(entries) > 1:
		c.batch = len(entries) / 2
		c.putBack(entries, true)
	case c.isUnstorable(entries[0], err):
		c.drop(entries[0], err)
		return
	default:
		c.putBack(entries, false)
	}
	c.sampled.Log(slog.LevelWarn, "commit", "reports of workers are not committed yet", "entries", len(entries), "err", err)
	_ = pause.For(ctx, commitPause<<min(c.failing, commitPauses))
	c.failing++
}

// isUnstorable reports whether to give up an entry that failed alone: the store calls it invalid or
// too large, or it has failed maxFailures times while other entries were committed.
func (c *committer) isUnstorable(e *entry, err error) bool {
	if errdefs.IsInvalidArgument(err) || errdefs.IsResourceExhausted(err) {
		return true
	}
	if e.failures == 0 {
		e.since = c.succeeded
	}
	e.failures++
	return e.failures >= maxFailures && c.succeeded > e.since
}

// drop gives up an entry and ends its session, because the worker would wait for an
// acknowledgement.
func (c *committer) drop(e *entry, err error) {
	c.sampled.Log(slog.LevelWarn, "drop "+e.session.node,
		"report of a worker cannot be stored and is dropped", "node", e.session.node, "err", err)
	e.session.close(errdefs.ErrInvalidArgument.WithMessage("a report of this node cannot be stored: " + err.Error()))
}

// write commits the entries together and acknowledges the statuses. It queues again the
// descriptions and image reports whose changes were made from rows that have changed since.
func (c *committer) write(ctx context.Context, entries []*entry) error {
	groups, owners := c.groups(c.store.View(), entries)
	var again []*entry
	if len(groups) > 0 {
		index, results, err := c.store.CommitGroups(ctx, "dispatch", groups)
		if err != nil {
			return err
		}
		for i, r := range results {
			e := entries[owners[i]]
			if !c.shouldRetry(e, r) {
				continue
			}
			if !slices.ContainsFunc(again, func(a *entry) bool { return a.session == e.session }) {
				again = append(again, &entry{session: e.session, description: e.description, images: e.images})
			}
		}
		if len(again) > 0 {
			c.waitForReplica(ctx, index) // otherwise they would be made from the same rows again
		}
	}
	for _, e := range entries {
		if e.status != nil {
			e.session.ack(e.status.GetSequence())
		}
	}
	c.putBack(again, false)
	return nil
}

// waitForReplica waits until this replica has a commit, within bounds.
func (c *committer) waitForReplica(ctx context.Context, index uint64) {
	ctx, cancel := context.WithTimeout(ctx, replicaTimeout)
	defer cancel()
	if _, err := c.store.WaitIndex(ctx, index); err != nil {
		c.log.Debug("replica lags behind reports of workers", "index", index, "err", err)
	}
}

// shouldRetry reports whether to make a rejected group again. A rejected status is out of date, or
// its task is gone. A rejected description was made from a row that has changed since, and is still
// the newest one of the worker.
func (c *committer) shouldRetry(e *entry, err error) bool {
	switch {
	case err == nil:
		return false
	case !e.describesNode():
		if !errdefs.IsAborted(err) && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
			c.log.Warn("task status was not stored", "node", e.session.node, "err", err)
		}
		return false
	case e.session.reason() != nil || errdefs.IsNotFound(err):
		return false
	}
	return errdefs.IsAborted(err) && e.description != nil || errdefs.IsAlreadyExists(err) && e.images != nil
}
