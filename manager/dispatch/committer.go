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
	// maxChanges is about how many changes of rows one commit has at most: 2,000 statuses are about
	// 400 KB. An entry makes at least one change, so a commit has no more entries than that.
	maxChanges = 2000
	// commitPause follows a commit that failed. It doubles with every further failure, at most
	// commitDoublings times.
	commitPause     = 50 * time.Millisecond
	commitDoublings = 5
	// maxFailures is how often an entry may fail alone while others are committed.
	maxFailures = 3
	// replicaTimeout bounds the wait until this replica has what was just committed.
	replicaTimeout = 5 * time.Second
)

// These budgets limit what is committed of each node's reports, however often the node opens a
// session. A report that is over a budget waits. Of descriptions, image and volume reports only the
// newest counts, so an honest worker loses nothing while they wait.
var (
	factsPace  = pace.Budget{Burst: 20, Period: 500 * time.Millisecond}                // counts descriptions, image and volume reports
	statusPace = pace.Budget{Burst: 8 << 20, Period: time.Second / (512 << 10)}        // counts the bytes of task statuses
	copiesPace = pace.Budget{Burst: 2 * bounds.MaxHeld, Period: 10 * time.Millisecond} // counts image copies and volumes that change
)

// entry holds what the worker of one session has reported and the store does not have yet. It has
// at most one report of each kind: of all but statuses only the newest counts, and a
// worker sends no status report before the last one was acknowledged. So the queue has at most one
// entry for each session.
type entry struct {
	session     *session
	status      *swarmv1.StatusReport
	description *swarmv1.NodeDescription
	images      *swarmv1.ImageReport
	volumes     *swarmv1.VolumeReport

	failures int    // how often the entry failed alone
	since    uint64 // committer.succeeded when the entry first failed alone
}

// describesNode reports whether the entry has a description, an image report or a volume report.
func (e *entry) describesNode() bool {
	return e.description != nil || e.images != nil || e.volumes != nil
}

// changes estimates how many changes the entry makes.
func (e *entry) changes() int {
	return 1 + len(e.status.GetUpdates()) + len(e.images.GetHeld()) + len(e.volumes.GetHeld())
}

// addOlder completes the entry with the reports of an older entry of the same session. A kind of
// report that the entry has already stays as it is.
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
	if e.volumes == nil {
		e.volumes = older.volumes
	}
	e.failures, e.since = older.failures, older.since
}

// store is the part of raftstore.Store that a committer needs. Tests implement it too.
type store interface {
	View() *table.View
	CommitGroups(ctx context.Context, actor string, groups []*swarmv1.Group) (uint64, []error, error)
	WaitIndex(ctx context.Context, index uint64) (*table.View, error)
}

// committer writes what workers report. The entries that come during one commit make the next one.
// When a commit fails, the next one has half as many entries, and so on, until an entry that cannot
// be committed is alone. That entry is tried again after the others, and then dropped. So no report
// holds up the others for long.
//
// The order of the queue:
//
//   - A session whose first report comes goes to the end.
//   - A session that waits keeps its place when a further report joins its entry, and when its
//     reports are over the rate of their node.
//   - Entries that failed together return to the front.
//   - An entry that failed alone goes to the end, and so do reports whose changes must be made
//     again from newer rows.
type committer struct {
	log     *slog.Logger
	sampled *logsample.Sampler
	store   store
	wake    chan struct{} // capacity 1

	facts, statusBytes, copies *pace.Each[string] // by node

	mu      sync.Mutex          // guards what follows
	waiting map[*session]*entry // one for each session
	queue   []*session          // the keys of waiting, in the order in which they are taken

	// The goroutine of run alone uses the rest.
	batch     int    // how many entries the next commit may have
	succeeded uint64 // commits that succeeded
	failing   int    // commits that failed in a row
}

func newCommitter(log *slog.Logger, store store) *committer {
	return &committer{
		log: log, sampled: logsample.New(log), store: store, wake: make(chan struct{}, 1),
		facts: pace.New[string](factsPace), statusBytes: pace.New[string](statusPace), copies: pace.New[string](copiesPace),
		waiting: make(map[*session]*entry), batch: maxChanges,
	}
}

// add queues a report. It replaces an older report of the same kind and session.
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

// putBack queues entries that were not committed, at the front of the queue or at its end. If the
// session of an entry has reported again meanwhile, its newer reports replace those of the same
// kind.
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

// take removes up to c.batch entries with about maxChanges changes from the front of the queue.
// Reports over the rate of their node stay; the first of them may be taken after wait (0: none
// stays). Of a session that is over, take drops such reports, because the next session of the node
// reports everything again.
func (c *committer) take() (out []*entry, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size, stay := 0, c.queue[:0:0]
	for i, x := range c.queue {
		if len(out) >= c.batch || size >= maxChanges {
			stay = append(stay, c.queue[i:]...)
			break
		}
		e := c.waiting[x]
		delete(c.waiting, x)
		held, w := c.holdBack(e)
		if w > 0 && !x.closed() {
			c.waiting[x], stay = held, append(stay, x)
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

// holdBack moves the reports that are over the rate of their node from e to another entry, held. It
// spends the budgets of the reports that stay in e. wait is the shortest time that a held report
// must wait; it is 0 if none is held.
func (c *committer) holdBack(e *entry) (held *entry, wait time.Duration) {
	node := e.session.node
	held = &entry{session: e.session, failures: e.failures, since: e.since}
	mustWait := func(w time.Duration) bool {
		if w > 0 && (wait == 0 || w < wait) {
			wait = w
		}
		return w > 0
	}
	if e.status != nil && mustWait(c.statusBytes.TakeN(node, e.status.SizeVT())) {
		e.status, held.status = nil, e.status
	}
	// With 0, TakeN spends nothing and only says whether the budget is overdrawn. committer.groups
	// spends from this budget, because it finds out how many rows change.
	if (e.images != nil || e.volumes != nil) && mustWait(c.copies.TakeN(node, 0)) {
		e.moveRows(held)
	}
	if e.describesNode() && mustWait(c.facts.Take(node)) {
		e.description, held.description = nil, e.description
		e.moveRows(held)
	}
	return held, wait
}

// moveRows moves the reports of images and volumes, if the entry has them, to another entry.
func (e *entry) moveRows(to *entry) {
	if e.images != nil {
		e.images, to.images = nil, e.images
	}
	if e.volumes != nil {
		e.volumes, to.volumes = nil, e.volumes
	}
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
		c.failing, c.batch = 0, min(2*c.batch, maxChanges)
		return
	case len(entries) > 1:
		c.batch = len(entries) / 2
		c.putBack(entries, true)
	default:
		c.countFailure(entries[0])
		if c.isUnstorable(entries[0], err) {
			c.drop(entries[0], err)
			return
		}
		c.putBack(entries, false)
	}
	c.sampled.Log(slog.LevelWarn, "commit", "reports of workers are not committed yet", "entries", len(entries), "err", err)
	_ = pause.For(ctx, commitPause<<min(c.failing, commitDoublings))
	c.failing++
}

// countFailure counts a commit that failed with this entry alone.
func (c *committer) countFailure(e *entry) {
	if e.failures == 0 {
		e.since = c.succeeded
	}
	e.failures++
}

// isUnstorable reports whether to give up an entry that failed alone with err: the store calls it
// invalid or too large, or it has failed maxFailures times while other entries were committed.
func (c *committer) isUnstorable(e *entry, err error) bool {
	if errdefs.IsInvalidArgument(err) || errdefs.IsResourceExhausted(err) {
		return true
	}
	return e.failures >= maxFailures && c.succeeded > e.since
}

// drop gives up an entry and ends its session, because the worker would wait for an
// acknowledgement.
func (c *committer) drop(e *entry, err error) {
	c.sampled.Log(slog.LevelWarn, "drop "+e.session.node,
		"report of a worker cannot be stored and is dropped", "node", e.session.node, "err", err)
	e.session.close(errdefs.ErrInvalidArgument.WithMessage("a report of this node cannot be stored: " + err.Error()))
}

// write commits the entries together and acknowledges the statuses. If the store rejects the change
// of another report because a row has changed since the change was made, write
// queues that report again.
func (c *committer) write(ctx context.Context, entries []*entry) error {
	groups, owners := c.groups(c.store.View(), entries)
	var again []*entry
	if len(groups) > 0 {
		index, results, err := c.store.CommitGroups(ctx, "dispatch", groups)
		if err != nil {
			return err
		}
		for i, r := range results {
			c.logRejected(owners[i], r)
			if !shouldRetry(owners[i], r) {
				continue
			}
			e := owners[i].entry
			if !slices.ContainsFunc(again, func(a *entry) bool { return a.session == e.session }) {
				again = append(again, &entry{session: e.session, description: e.description, images: e.images, volumes: e.volumes})
			}
		}
		if len(again) > 0 {
			c.waitForReplica(ctx, index) // the next changes must not be made from the same old rows
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

// shouldRetry reports whether the reports of an entry other than statuses must be queued again
// after the store has answered err for one of its groups: the group was made from a row that has
// changed since. A status is not queued again: a rejected status is out of date, or its task is
// gone.
func shouldRetry(o owner, err error) bool {
	return !o.isStatus && o.entry.session.reason() == nil && (errdefs.IsAborted(err) || errdefs.IsAlreadyExists(err))
}

// logRejected logs a status that the store rejects although the status is not out of date and its
// task exists.
func (c *committer) logRejected(o owner, err error) {
	if o.isStatus && err != nil && !errdefs.IsAborted(err) && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
		c.log.Warn("task status was not stored", "node", o.entry.session.node, "err", err)
	}
}
