package worker

import (
	"context"

	"swarm/internal/pause"
	"swarm/worker/retry"
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
		for try := 0; s.w.deps.InForce != nil; try++ {
			err := s.w.deps.InForce(ctx)
			if err == nil {
				break
			}
			s.w.deps.Log.Debug("assignments are not in force yet", "sequence", sequence, "err", err)
			if pause.For(ctx, retry.Backoff(try, retryFirst, retryLimit)) != nil {
				return ctx.Err()
			}
		}
		select {
		case s.inForce <- sequence:
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
