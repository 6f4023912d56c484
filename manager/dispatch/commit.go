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
	"swarm/raftstore"
)

const (
	// maxGroups of one commit: 2,000 statuses are about 400 KB.
	maxGroups    = 2000
	commitPause  = 50 * time.Millisecond
	commitPauses = 5 // doublings of commitPause
	// maxFailures is how often an entry may fail alone while others are committed.
	maxFailures = 3
	// seenPatience bounds the wait for this replica to hold what was just committed.
	seenPatience = 5 * time.Second
)

// How much of each node is committed, however often it opens a session: so much at once, and one more each period. Only
// the newest description and image report count, so an honest worker loses nothing when it waits.
var (
	factsPace  = pace.Budget{Burst: 20, Period: 500 * time.Millisecond}                // descriptions and image reports
	statusPace = pace.Budget{Burst: 8 << 20, Period: time.Second / (512 << 10)}        // bytes of task statuses
	copiesPace = pace.Budget{Burst: 2 * bounds.MaxHeld, Period: 10 * time.Millisecond} // image copies that come or go
)

// entry is what one session's worker has reported and the store does not have: at most one report of each kind, since of
// descriptions and images only the newest counts, and a worker waits for the acknowledgement of a status report. What the
// queue holds is bounded by the number of sessions.
type entry struct {
	session     *session
	status      *swarmv1.StatusReport
	description *swarmv1.NodeDescription
	images      *swarmv1.ImageReport

	failures int    // how often it failed alone
	since    uint64 // of the committer's commits, when it first did
}

// facts reports whether the entry says something of the node, and not only of tasks.
func (e *entry) facts() bool { return e.description != nil || e.images != nil }

// changes is about how many changes the entry makes.
func (e *entry) changes() int {
	return 1 + len(e.status.GetUpdates()) + len(e.images.GetHeld())
}

// under adds what an older entry of the same session says and this one does not say anew.
func (e *entry) under(older *entry) {
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

// rows is what a committer needs of the store.
type rows interface {
	View() *raftstore.View
	CommitGroups(ctx context.Context, actor string, groups []*swarmv1.Group) (uint64, []error, error)
	WaitIndex(ctx context.Context, index uint64) (*raftstore.View, error)
}

// committer writes what workers report. Whatever queues up while a commit is on its way makes the next one. A commit that
// fails is made again in smaller parts, so that an entry which cannot be committed is found, tried alone, and dropped: it
// holds up the others for a moment, and never for good.
type committer struct {
	log     *slog.Logger
	sampled *logsample.Sampler
	store   rows
	wake    chan struct{} // capacity 1

	facts, statusBytes, copies *pace.Each[string] // by node

	mu      sync.Mutex          // guards what follows
	waiting map[*session]*entry // one for each session
	queue   []*session          // of waiting, oldest first

	part    int    // how many entries the next commit may have; run's alone
	commits uint64 // that succeeded; run's alone
	failing int    // commits that failed in a row; run's alone
}

func newCommitter(log *slog.Logger, store rows) *committer {
	return &committer{
		log: log, sampled: logsample.New(log), store: store, wake: make(chan struct{}, 1), waiting: make(map[*session]*entry), part: maxGroups,
		facts: pace.New[string](factsPace), statusBytes: pace.New[string](statusPace), copies: pace.New[string](copiesPace),
	}
}

// add queues a report, in the place of what it makes out of date.
func (c *committer) add(e *entry) {
	c.mu.Lock()
	if older := c.waiting[e.session]; older != nil {
		e.under(older)
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
			newer.under(e)
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

// take removes up to c.part entries with about maxGroups changes from the queue, oldest first. What a node reports too
// often stays, for at least wait.
func (c *committer) take() (out []*entry, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size, stay := 0, c.queue[:0:0]
	for i, x := range c.queue {
		if len(out) >= c.part || size >= maxGroups {
			stay = append(stay, c.queue[i:]...)
			break
		}
		e := c.waiting[x]
		delete(c.waiting, x)
		later, w := c.hold(e)
		if w > 0 && !x.ended() { // The next session of the node says it all again.
			c.waiting[x], stay = later, append(stay, x)
			if wait == 0 || w < wait {
				wait = w
			}
		}
		if e.status == nil && !e.facts() {
			continue
		}
		size += e.changes()
		out = append(out, e)
	}
	c.queue = stay
	return out, wait
}

// hold moves from an entry to later what its node reports too often, and returns how long some of it has to wait.
func (c *committer) hold(e *entry) (later *entry, wait time.Duration) {
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
	if e.images != nil && over(c.copies.TakeN(node, 0)) { // write spends what it turns out to change
		e.images, later.images = nil, e.images
	}
	if e.facts() && over(c.facts.Take(node)) {
		e.description, later.description = nil, e.description
		if e.images != nil {
			e.images, later.images = nil, e.images
		}
	}
	return later, wait
}

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
		c.commits++
		c.failing, c.part = 0, min(2*c.part, maxGroups)
		return
	case len(entries) > 1:
		c.part = len(entries) / 2
		c.putBack(entries, true)
	case c.hopeless(entries[0], err):
		c.drop(entries[0], err)
		return
	default:
		c.putBack(entries, false)
	}
	c.sampled.Log(slog.LevelWarn, "commit", "reports of workers are not committed yet", "entries", len(entries), "err", err)
	_ = pause.For(ctx, commitPause<<min(c.failing, commitPauses))
	c.failing++
}

// hopeless judges an entry that failed alone: whether the store cannot take it, or others fare better.
func (c *committer) hopeless(e *entry, err error) bool {
	if errdefs.IsInvalidArgument(err) || errdefs.IsResourceExhausted(err) {
		return true
	}
	if e.failures == 0 {
		e.since = c.commits
	}
	e.failures++
	return e.failures >= maxFailures && c.commits > e.since
}

// drop gives an entry up, and ends the session that it came in: its worker must not wait for an acknowledgement.
func (c *committer) drop(e *entry, err error) {
	c.sampled.Log(slog.LevelWarn, "drop "+e.session.node, "report of a worker cannot be stored and is dropped", "node", e.session.node, "err", err)
	e.session.close(errdefs.ErrInvalidArgument.WithMessage("a report of this node cannot be stored: " + err.Error()))
}

// write commits the entries together, acknowledges the statuses, and queues again what was made from rows that have
// changed since.
func (c *committer) write(ctx context.Context, entries []*entry) error {
	groups, owners := c.groups(c.store.View(), entries)
	var again []*entry
	if len(groups) > 0 {
		index, results, err := c.store.CommitGroups(ctx, "dispatch", groups)
		if err != nil {
			return err
		}
		for i, r := range results {
			if e := entries[owners[i]]; c.judge(e, r) && !slices.ContainsFunc(again, func(a *entry) bool { return a.session == e.session }) {
				again = append(again, &entry{session: e.session, description: e.description, images: e.images})
			}
		}
		if len(again) > 0 {
			c.caughtUp(ctx, index) // Or they would be made from the same rows again.
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

func (c *committer) caughtUp(ctx context.Context, index uint64) {
	ctx, cancel := context.WithTimeout(ctx, seenPatience)
	defer cancel()
	if _, err := c.store.WaitIndex(ctx, index); err != nil {
		c.log.Debug("replica lags behind reports of workers", "index", index, "err", err)
	}
}

// judge tells whether a rejected group is to be made anew. A status that is not newer, or of a task that is gone, is of
// no more use. A description was made from a row that has changed since: it is still the newest word of the worker.
func (c *committer) judge(e *entry, err error) bool {
	switch {
	case err == nil:
		return false
	case !e.facts():
		if !errdefs.IsAborted(err) && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
			c.log.Warn("task status was not stored", "node", e.session.node, "err", err)
		}
		return false
	case e.session.reason() != nil || errdefs.IsNotFound(err):
		return false
	}
	return errdefs.IsAborted(err) && e.description != nil || errdefs.IsAlreadyExists(err) && e.images != nil
}
