package raftstore

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"swarm/raftstore/table"
)

const (
	// refreshInterval is the minimum time between two requests of a Refresher to the leader.
	refreshInterval = time.Second
	// maxRefreshWaiters is the maximum number of calls that wait for a Refresher. Each call costs a
	// goroutine and a request of a few KiB.
	maxRefreshWaiters = 1024
)

// Refresher brings the replica up to date on behalf of callers that are not trusted. It asks the
// leader at most once a second, whatever the number of calls. A Refresher is safe for concurrent
// use.
type Refresher struct {
	store   *Store // nil in tests of View
	latest  func(context.Context) (*table.View, error)
	waiting atomic.Int32
	queries atomic.Uint64 // requests to the leader so far

	lock          chan struct{} // a mutex for the fields below; one can wait for it in a select
	lastQuery     time.Time     // time of the last request, answered or not
	viewQueriedAt time.Time     // time of the request that returned view and err
	view          *table.View
	err           error
}

// NewRefresher returns a Refresher for a store.
func NewRefresher(s *Store) *Refresher {
	return &Refresher{store: s, latest: s.Latest, lock: make(chan struct{}, 1)}
}

// View returns a view that includes everything that was committed when the call began. It takes up
// to refreshInterval and a round trip to the leader. It returns the error of ctx, or
// errdefs.ErrUnavailable, which is transient.
func (r *Refresher) View(ctx context.Context) (*table.View, error) {
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
		return r.view, r.err // another call asked the leader after this one began
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
		return nil, ctx.Err() // this caller gave up; the others still need an answer
	}
	r.viewQueriedAt, r.view, r.err = r.lastQuery, view, err
	return view, err
}

// ViewFor returns a View for a call from nodeID. For a node that the replica knows, it asks the
// leader without a wait. All other nodes, for example removed ones that still call, share the
// requests of View.
func (r *Refresher) ViewFor(ctx context.Context, nodeID string) (*table.View, error) {
	if _, known := r.store.View().Nodes.Get(nodeID); known {
		return r.store.Latest(ctx)
	}
	return r.View(ctx)
}

// LeaderQueries returns the number of requests to the leader so far.
func (r *Refresher) LeaderQueries() uint64 { return r.queries.Load() }
