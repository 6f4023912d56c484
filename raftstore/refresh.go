package raftstore

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// refreshPause is the least time between two questions of a Refresher to the leader.
	refreshInterval = time.Second
	// maxRefreshing is how many calls wait for a Refresher at most. Each is a goroutine with a
	// request of a few KiB.
	maxRefreshWaiters = 1024
)

// Refresher brings the replica up to date for calls that anybody can cause. However many there are,
// the leader is asked once a second. It is safe for concurrent use.
type Refresher struct {
	store   *Store // nil in tests of View
	latest  func(context.Context) (*View, error)
	waiting atomic.Int32
	queries atomic.Uint64 // questions so far, for tests and metrics

	lock          chan struct{} // holds one token; its holder may use what follows
	lastQuery     time.Time     // when the leader was asked last, answered or not
	viewQueriedAt time.Time     // when the newest answer was asked for
	view          *View
	err           error
}

// NewRefresher makes a Refresher of a store.
func NewRefresher(s *Store) *Refresher {
	return &Refresher{store: s, latest: s.Latest, lock: make(chan struct{}, 1)}
}

// View returns a view that holds everything that was committed when the call began. It takes up to
// refreshPause and a round trip to the leader. Its errors are ErrUnavailable, which is transient,
// and that of ctx.
func (r *Refresher) View(ctx context.Context) (*View, error) {
	if r.waiting.Add(1) > maxRefreshWaiters {
		r.waiting.Add(-1)
		return nil, errdefs.ErrUnavailable.WithMessage("too many callers wait for the newest state of the cluster: try again in a moment")
	}
	defer r.waiting.Add(-1)
	called := time.Now()
	select {
	case r.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-r.lock }()
	if r.viewQueriedAt.After(called) {
		return r.view, r.err // an earlier holder asked while this call waited
	}
	timer := time.NewTimer(time.Until(r.lastQuery.Add(refreshInterval)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r.lastQuery = time.Now()
	r.queries.Add(1)
	view, err := r.latest(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err() // this caller's impatience is no answer for the others
	}
	r.viewQueriedAt, r.view, r.err = r.lastQuery, view, err
	return view, err
}

// ViewFor is View for the call of a node. A node that the replica knows asks the leader by itself.
// All others, such as nodes that were removed and ask without end, share the questions.
func (r *Refresher) ViewFor(ctx context.Context, nodeID string) (*View, error) {
	if _, known := r.store.View().Nodes.Get(nodeID); known {
		return r.store.Latest(ctx)
	}
	return r.View(ctx)
}

// Asked counts the questions to the leader so far.
func (r *Refresher) LeaderQueries() uint64 { return r.queries.Load() }
