package raftstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"swarm/internal/broadcast"
)

// leadership records whether this member leads, and since when it has known no leader.
type leadership struct {
	// changes wakes its waiters when this member learns of another leader or of the loss of the
	// leader, and when the leadership of this member begins or ends.
	changes broadcast.Signal

	mu              sync.Mutex      // guards the rest
	leading         context.Context // ends when this member no longer leads; nil if it does not lead
	cancel          context.CancelFunc
	leaderlessSince time.Time // zero while a leader is known
}

func newLeadership() *leadership {
	return &leadership{leaderlessSince: time.Now()}
}

// setLeaderKnown records whether Raft knows a leader.
func (l *leadership) setLeaderKnown(known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case known:
		l.leaderlessSince = time.Time{}
	case l.leaderlessSince.IsZero():
		l.leaderlessSince = time.Now()
	}
}

// changed returns a channel that is closed when the leader changes, or when this member's
// leadership begins or ends.
func (l *leadership) changed() <-chan struct{} { return l.changes.Changed() }

func (l *leadership) notify() { l.changes.Broadcast() }

func (l *leadership) begin(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading, l.cancel = context.WithCancel(ctx)
	l.changes.Broadcast()
}

func (l *leadership) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leading == nil {
		return
	}
	l.cancel()
	l.leading, l.cancel = nil, nil
	l.changes.Broadcast()
}

func (l *leadership) current() (context.Context, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leading, l.changes.Changed()
}

// watchLeadership turns Raft's leadership signals into a context. Leadership begins only after a
// barrier, so that the view includes everything that earlier leaders committed.
func (s *Store) watchLeadership(ctx context.Context) error {
	defer s.leadership.end()
	for {
		select {
		case leads := <-s.raft.LeaderCh():
			// LeaderCh keeps only the newest signal, so the signal for the end of a former
			// leadership may have been lost.
			s.leadership.end()
			if !leads {
				continue
			}
			if err := s.ask(ctx, "wait for the barrier of the term", func() raft.Future { return s.raft.Barrier(0) }); err != nil {
				continue // the leadership is lost, and the next signal will say so, or the store closes
			}
			s.log.Info("this manager leads", "node", s.cfg.NodeID, "index", s.View().Index())
			s.peers.reset()
			s.leadership.begin(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// Lead runs fn each time this member becomes the leader. The view then includes everything that was
// committed before. The context of fn ends when this member no longer leads, and fn must then
// return. If fn returns nil earlier, Lead runs it again only in the next leadership. Lead returns
// nil when ctx ends or the store is closed. It returns the error of fn if fn fails while this
// member leads. Run must be running.
func (s *Store) Lead(ctx context.Context, fn func(ctx context.Context) error) error {
	for {
		leading, leaderChanged := s.leadership.current()
		if leading == nil {
			select {
			case <-leaderChanged:
				continue
			case <-ctx.Done():
				return nil
			case <-s.closed:
				return nil
			}
		}
		if err := runWhile(ctx, leading, fn); err != nil {
			return err
		}
		select {
		case <-leading.Done():
		case <-ctx.Done():
			return nil
		}
	}
}

// runWhile runs fn with a context that ends when ctx or leading ends. It returns the error of fn,
// or nil if the context of fn has ended, because that end is the usual reason for the error.
func runWhile(ctx, leading context.Context, fn func(context.Context) error) error {
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(leading, cancel)()
	err := fn(run)
	if run.Err() != nil || errors.Is(err, context.Canceled) && leading.Err() != nil {
		return nil
	}
	return err
}

// IsLeader reports whether this member leads and has applied everything that earlier leaders
// committed.
func (s *Store) IsLeader() bool {
	leading, _ := s.leadership.current()
	return leading != nil && s.raft.State() == raft.Leader
}

// Leader returns the node id of the leader as far as this member knows, or "" if it knows none.
func (s *Store) Leader() string {
	_, id := s.raft.LeaderWithID()
	return string(id)
}

// LeaderlessSince returns the time since which this member has known no leader, or the zero time if
// it knows one. A leader that has just failed counts as known until Raft notices the failure.
func (s *Store) LeaderlessSince() time.Time {
	if s.Leader() != "" {
		return time.Time{}
	}
	s.leadership.mu.Lock()
	defer s.leadership.mu.Unlock()
	return s.leadership.leaderlessSince
}

// LeaderChanged returns a channel that is closed when the leader changes, or when this member's
// leadership begins or ends. Call it before Leader, so that no change is missed.
func (s *Store) LeaderChanged() <-chan struct{} { return s.leadership.changed() }
