package raftstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// bell tells whoever waits that something has happened.
type bell struct {
	mu   sync.Mutex // guards rung
	rung chan struct{}
}

func newBell() *bell { return &bell{rung: make(chan struct{})} }

// next is closed when the bell rings next.
func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rung
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.rung)
	b.rung = make(chan struct{})
}

// reign is what this member knows of leadership: its own as a context, and a signal for every change of leader.
type reign struct {
	moved *bell // rings at every change

	mu    sync.Mutex      // guards the rest
	term  context.Context // ends with this member's leadership; nil while it does not lead
	end   context.CancelFunc
	alone time.Time // since when no leader is known; zero while one is
}

func newReign() *reign { return &reign{moved: newBell(), alone: time.Now()} }

// follows takes in whether Raft knows a leader.
func (r *reign) follows(known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case known:
		r.alone = time.Time{}
	case r.alone.IsZero():
		r.alone = time.Now()
	}
}

// changed is closed at the next change of leader, or when this member's leadership begins or ends.
func (r *reign) changed() <-chan struct{} { return r.moved.next() }

func (r *reign) notify() { r.moved.ring() }

func (r *reign) begin(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.term, r.end = context.WithCancel(ctx)
	r.moved.ring()
}

func (r *reign) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.term == nil {
		return
	}
	r.end()
	r.term, r.end = nil, nil
	r.moved.ring()
}

func (r *reign) current() (context.Context, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.term, r.moved.next()
}

// watchLeadership turns Raft's signals into a context. Leadership begins only after a barrier: everything that earlier
// leaders committed is in the view by then.
func (s *Store) watchLeadership(ctx context.Context) error {
	defer s.reign.finish()
	for {
		select {
		case leads := <-s.raft.LeaderCh():
			s.reign.finish() // a loss between two signals is merged into the second
			if !leads {
				continue
			}
			if err := s.raft.Barrier(0).Error(); err != nil {
				continue // lost again; the signal is on its way
			}
			s.log.Info("this manager leads", "node", s.cfg.NodeID, "index", s.fsm.applied.Load())
			s.peers.reset()
			s.reign.begin(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// Lead runs fn whenever this member leads, with a view that includes all that was committed before. fn's context ends
// with leadership; fn must then return, and may be run again. Lead returns when ctx ends, or with an error that fn
// returns while it still leads. The store must be running.
func (s *Store) Lead(ctx context.Context, fn func(ctx context.Context) error) error {
	for {
		term, moved := s.reign.current()
		if term == nil {
			select {
			case <-moved:
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

// IsLeader reports whether this member leads and has caught up with all earlier leaders.
func (s *Store) IsLeader() bool {
	term, _ := s.reign.current()
	return term != nil && s.raft.State() == raft.Leader
}

// Leader is the id of the member that leads, as far as this one knows; "" when none does.
func (s *Store) Leader() string {
	_, id := s.raft.LeaderWithID()
	return string(id)
}

// Leaderless returns since when this member has known no leader. It returns the zero time while it knows
// one, which may have lost its office or its host a moment ago.
func (s *Store) Leaderless() time.Time {
	if s.Leader() != "" {
		return time.Time{}
	}
	s.reign.mu.Lock()
	defer s.reign.mu.Unlock()
	return s.reign.alone
}

// LeaderChanged is closed at the next change of leader. Take it before reading Leader.
func (s *Store) LeaderChanged() <-chan struct{} { return s.reign.changed() }
