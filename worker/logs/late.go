package logs

import (
	"context"
	"sync"
	"time"

	"swarm/internal/pause"
)

// retryEvery is how long after a journal could not be written that is tried again: a disk that was
// full tells nobody that it has room, and a container may never write again.
const retryEvery = time.Second

// late are the journals that could not be written.
type late struct {
	mu       sync.Mutex // guards journals
	journals map[*journal]bool
	wake     chan struct{} // one token: there are some
}

func newLate() *late { return &late{journals: map[*journal]bool{}, wake: make(chan struct{}, 1)} }

// add remembers one; finish: its container is gone.
func (l *late) add(j *journal, finish bool) {
	l.mu.Lock()
	l.journals[j] = finish || l.journals[j]
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *late) take() map[*journal]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.journals
	l.journals = map[*journal]bool{}
	return all
}

// runLate tries the late ones again until ctx ends.
func (s *Store) runLate(ctx context.Context) error {
	for {
		select {
		case <-s.late.wake:
		case <-ctx.Done():
			return nil
		}
		if pause.For(ctx, retryEvery) != nil {
			return nil
		}
		for j, finish := range s.late.take() {
			switch {
			case !finish:
				s.mark(j)
			case j.finish() != nil: // which was said at the first attempt
				s.late.add(j, true)
			default:
				s.release(j)
			}
		}
	}
}
