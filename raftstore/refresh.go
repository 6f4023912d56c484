package raftstore

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// refreshPause is the least time between two questions of a Refresher to the leader.
	refreshPause = time.Second
	// maxRefreshing is how many calls wait for a Refresher at most. Each is a goroutine with a
	// request of a few KiB.
	maxRefreshing = 1024
)

// Refresher brings the replica up to date for calls that anybody can cause. However many there are,
// the leader is asked once a second. It is safe for concurrent use.
type Refresher struct {
	store   *Store // nil in tests of View
	latest  func(context.Context) (*View, error)
	waiting atomic.Int32
	asked   atomic.Uint64 // questions so far, for tests and metrics

	turn chan struct{} // holds one token; its holder may use what follows
	last time.Time     // when the leader was asked last, answered or not
	at   time.Time     // when the newest answer was asked for
	view *View
	err  error
}

// NewRefresher makes a Refresher of a store.
func NewRefresher(s *Store) *Refresher {
	return &Refresher{store: s, latest: s.Latest, turn: make(chan struct{}, 1)}
}

// View returns a view that holds everything that was committed when the call began. It takes up to
// refreshPause and a round trip to the leader. Its errors are ErrUnavailable, which is transient,
// and that of ctx.
func (r *Refresher) View(ctx context.Context) (*View, error) {
	if r.waiting.Add(1) > maxRefreshing {
		r.waiting.Add(-1)
		return nil, errdefs.ErrUnavailable.WithMessage("too many callers wait for the newest state of the cluster: try again in a moment")
	}
	defer r.waiting.Add(-1)
	began := time.Now()
	select {
	case r.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-r.turn }()
	if r.at.After(began) {
		return r.view, r.err // an earlier holder asked while this call waited
	}
	timer := time.NewTimer(time.Until(r.last.Add(refreshPause)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r.last = time.Now()
	r.asked.Add(1)
	view, err := r.latest(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err() // this caller's impatience is no answer for the others
	}
	r.at, r.view, r.err = r.last, view, err
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
func (r *Refresher) Asked() uint64 { return r.asked.Load() }
