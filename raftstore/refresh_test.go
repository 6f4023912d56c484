package raftstore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// leader answers after one second, with a view whose index numbers the request.
type leader struct {
	err error

	mu    sync.Mutex // guards the rest
	asked []time.Time
	busy  bool
}

func (l *leader) latest(ctx context.Context) (*table.View, error) {
	l.mu.Lock()
	if l.busy {
		panic("two questions at a time")
	}
	l.busy = true
	l.asked = append(l.asked, time.Now())
	index := uint64(len(l.asked))
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.busy = false
		l.mu.Unlock()
	}()
	select {
	case <-time.After(time.Second):
		return table.ViewOf(&swarmv1.Claim{Key: "x", Meta: &swarmv1.Meta{Version: index}}), l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// askedAt returns the time of the request that the view answers.
func (l *leader) askedAt(v *table.View) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked[v.Index()-1]
}

func TestRefresher_OneQuestionForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leader{}
		r := &Refresher{latest: l.latest, lock: make(chan struct{}, 1)}
		var wg sync.WaitGroup
		for i := range 500 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				began := time.Now()
				v, err := r.View(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if at := l.askedAt(v); at.Before(began) {
					t.Errorf("a call of %v got a view of %v before", began, began.Sub(at))
				}
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("a call took %v", took)
				}
			})
		}
		wg.Wait()
		if n := len(l.asked); n > 7 || r.LeaderQueries() != uint64(n) {
			t.Errorf("%d questions, counted as %d, in 5 s; want one a second", n, r.LeaderQueries())
		}
	})
}

func TestRefresher_FailuresAndImpatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &leader{err: errors.New("no leader")}
		r := &Refresher{latest: l.latest, lock: make(chan struct{}, 1)}
		var wg sync.WaitGroup
		impatient, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		wg.Go(func() {
			if _, err := r.View(impatient); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("impatient: %v", err)
			}
		})
		for range 100 {
			wg.Go(func() {
				time.Sleep(50 * time.Millisecond)
				if _, err := r.View(t.Context()); !errors.Is(err, l.err) {
					t.Errorf("got %v, want the leader's error", err)
				}
			})
		}
		wg.Wait()
		if n := len(l.asked); n > 3 {
			t.Errorf("%d questions", n)
		}
		var refused atomic.Int64
		for range maxRefreshWaiters + 10 {
			wg.Go(func() {
				if _, err := r.View(t.Context()); errdefs.IsUnavailable(err) {
					refused.Add(1)
				}
			})
		}
		wg.Wait()
		if refused.Load() == 0 {
			t.Error("any number may wait")
		}
	})
}
