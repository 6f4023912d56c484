package session

import (
	"context"
	"time"

	"swarm/internal/pause"
	"swarm/worker/retry"
)

const (
	programRetryFirst = 500 * time.Millisecond
	programRetryLimit = 4 * time.Second
)

// act waits for each message of assignments, and for those that came with it, to be in force, and has the writer say so.
// It never returns nil.
func (s *session) act(ctx context.Context) error {
	for {
		select {
		case <-s.fresh:
		case <-ctx.Done():
			return ctx.Err()
		}
		sequence := s.applied.Load()
		for try := 0; s.c.deps.Programmed != nil; try++ {
			err := s.c.deps.Programmed(ctx)
			if err == nil {
				break
			}
			s.c.deps.Log.Debug("assignments are not in force yet", "sequence", sequence, "err", err)
			if pause.For(ctx, retry.Backoff(try, programRetryFirst, programRetryLimit)) != nil {
				return ctx.Err()
			}
		}
		select {
		case s.programmed <- sequence:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// assigns notes that the worker has the assignments of this sequence.
func (s *session) assigns(sequence uint64) {
	s.applied.Store(sequence)
	select {
	case s.fresh <- struct{}{}:
	default:
	}
}
