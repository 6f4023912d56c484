package logs

import (
	"context"
	"sync"
	"time"

	"swarm/internal/pause"
)

// retryInterval is the pause before a journal that could not be written is tried again. There is no
// event when a full disk has space again, and the container may never write again.
const retryInterval = time.Second

// late has the journals that could not be written.
type late struct {
	mu       sync.Mutex        // guards journals
	journals map[*journal]bool // true: the container is removed, so the journal must be finished
	wake     chan struct{}     // one token: journals is not empty
}

func newLate() *late { return &late{journals: map[*journal]bool{}, wake: make(chan struct{}, 1)} }

// add adds a journal. finish says that its container is removed.
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

// runLate tries the late journals again until ctx ends.
func (s *Store) runLate(ctx context.Context) error {
	for {
		select {
		case <-s.late.wake:
		case <-ctx.Done():
			return nil
		}
		if pause.For(ctx, retryInterval) != nil {
			return nil
		}
		for j, finish := range s.late.take() {
			switch {
			case !finish:
				s.mark(j)
			case j.finish() != nil: // the error was logged at the first attempt
				s.late.add(j, true)
			default:
				s.release(j)
			}
		}
	}
}
