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

// retries has the journals that could not be written.
type retries struct {
	mu       sync.Mutex        // guards journals
	journals map[*journal]bool // true: the container is removed, so the journal must be finished
	wake     chan struct{}     // one token: journals is not empty
}

func newRetries() *retries {
	return &retries{journals: map[*journal]bool{}, wake: make(chan struct{}, 1)}
}

// add adds a journal. finish says that its container is removed.
func (l *retries) add(j *journal, finish bool) {
	l.mu.Lock()
	l.journals[j] = finish || l.journals[j]
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take returns the journals and removes them.
func (l *retries) take() map[*journal]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.journals
	l.journals = map[*journal]bool{}
	return all
}

// runRetries tries again to write the journals that could not be written, until ctx ends.
func (s *Store) runRetries(ctx context.Context) error {
	for {
		select {
		case <-s.retry.wake:
		case <-ctx.Done():
			return nil
		}
		if pause.For(ctx, retryInterval) != nil {
			return nil
		}
		for j, finish := range s.retry.take() {
			switch {
			case !finish:
				s.mark(j)
			case j.finish() != nil: // the error was logged at the first attempt
				s.retry.add(j, true)
			default:
				s.release(j)
			}
		}
	}
}
