package raftstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// bell tells whoever waits that something has happened.
type broadcast struct {
	mu sync.Mutex // guards rung
	ch chan struct{}
}

func newBroadcast() *broadcast { return &broadcast{ch: make(chan struct{})} }

// next is closed when the bell rings next.
func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ch
}

func (b *broadcast) send() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.ch)
	b.ch = make(chan struct{})
}

// reign is what this member knows of leadership: its own as a context, and a signal for every change of leader.
type leadership struct {
	changes *broadcast // rings at every change

	mu              sync.Mutex      // guards the rest
	term            context.Context // ends with this member's leadership; nil while it does not lead
	cancel          context.CancelFunc
	leaderlessSince time.Time // since when no leader is known; zero while one is
}

func newLeadership() *leadership {
	return &leadership{changes: newBroadcast(), leaderlessSince: time.Now()}
}

// follows takes in whether Raft knows a leader.
func (r *leadership) setLeaderKnown(known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case known:
		r.leaderlessSince = time.Time{}
	case r.leaderlessSince.IsZero():
		r.leaderlessSince = time.Now()
	}
}

// changed is closed at the next change of leader, or when this member's leadership begins or ends.
func (r *leadership) changed() <-chan struct{} { return r.changes.next() }

func (r *leadership) notify() { r.changes.send() }

func (r *leadership) begin(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.term, r.cancel = context.WithCancel(ctx)
	r.changes.send()
}

func (r *leadership) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.term == nil {
		return
	}
	r.cancel()
	r.term, r.cancel = nil, nil
	r.changes.send()
}

func (r *leadership) current() (context.Context, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.term, r.changes.next()
}

// watchLeadership turns Raft's signals into a context. Leadership begins only after a barrier: everything that earlier
// leaders committed is in the view by then.
func (s *Store) watchLeadership(ctx context.Context) error {
	defer s.leadership.end()
	for {
		select {
		case leads := <-s.raft.LeaderCh():
			s.leadership.end() // a loss between two signals is merged into the second
			if !leads {
				continue
			}
			if err := s.raft.Barrier(0).Error(); err != nil {
				continue // lost again; the signal is on its way
			}
			s.log.Info("this manager leads", "node", s.cfg.NodeID, "index", s.fsm.applied.Load())
			s.peers.reset()
			s.leadership.begin(ctx)
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
	term, _ := s.leadership.current()
	return term != nil && s.raft.State() == raft.Leader
}

// Leader is the id of the member that leads, as far as this one knows; "" when none does.
func (s *Store) Leader() string {
	_, id := s.raft.LeaderWithID()
	return string(id)
}

// Leaderless returns since when this member has known no leader. It returns the zero time while it knows
// one, which may have lost its office or its host a moment ago.
func (s *Store) LeaderlessSince() time.Time {
	if s.Leader() != "" {
		return time.Time{}
	}
	s.leadership.mu.Lock()
	defer s.leadership.mu.Unlock()
	return s.leadership.leaderlessSince
}

// LeaderChanged is closed at the next change of leader. Take it before reading Leader.
func (s *Store) LeaderChanged() <-chan struct{} { return s.leadership.changed() }
