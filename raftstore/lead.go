package raftstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"swarm/internal/broadcast"
)

// leadership is what this member knows about leadership: its own as a context, and a signal for
// every change.
type leadership struct {
	changes broadcast.Signal // sent at every change of leader

	mu              sync.Mutex      // guards the rest
	term            context.Context // ends with this leadership; nil while not leading
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
	l.term, l.cancel = context.WithCancel(ctx)
	l.changes.Broadcast()
}

func (l *leadership) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.term == nil {
		return
	}
	l.cancel()
	l.term, l.cancel = nil, nil
	l.changes.Broadcast()
}

func (l *leadership) current() (context.Context, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.term, l.changes.Changed()
}

// watchLeadership turns Raft's leadership signals into a context. Leadership begins only after a
// barrier, so that the view includes everything that earlier leaders committed.
func (s *Store) watchLeadership(ctx context.Context) error {
	defer s.leadership.end()
	for {
		select {
		case leads := <-s.raft.LeaderCh():
			s.leadership.end() // if leadership was lost and regained, there may be only one signal
			if !leads {
				continue
			}
			if err := s.ask(ctx, "wait for the barrier of the term", func() raft.Future { return s.raft.Barrier(0) }); err != nil {
				continue // lost again, and the next signal says so, or the store closes
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
// committed before. The context of fn ends with leadership; fn must then return, and may be run
// again. Lead returns nil when ctx ends or the store is closed, and returns the error of fn if fn
// fails while this member leads. Run must be running.
func (s *Store) Lead(ctx context.Context, fn func(ctx context.Context) error) error {
	for {
		term, leaderChanged := s.leadership.current()
		if term == nil {
			select {
			case <-leaderChanged:
				continue
			case <-ctx.Done():
				return nil
			case <-s.closed:
				return nil
			}
		}
		if err := within(ctx, term, fn); err != nil {
			return err
		}
		select {
		case <-term.Done():
		case <-ctx.Done():
			return nil
		}
	}
}

// within runs fn with a context that ends with ctx or with the term. It hides the error of fn if
// either has ended.
func within(ctx, term context.Context, fn func(context.Context) error) error {
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(term, cancel)()
	err := fn(run)
	if run.Err() != nil || errors.Is(err, context.Canceled) && term.Err() != nil {
		return nil
	}
	return err
}

// IsLeader reports whether this member leads and has applied everything that earlier leaders
// committed.
func (s *Store) IsLeader() bool {
	term, _ := s.leadership.current()
	return term != nil && s.raft.State() == raft.Leader
}

// Leader returns the node id of the leader as far as this member knows, or "" if it knows none.
func (s *Store) Leader() string {
	_, id := s.raft.LeaderWithID()
	return string(id)
}

// LeaderlessSince returns the time since which this member has known no leader, or the zero time if
// it knows one. That leader may have failed a moment ago.
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
