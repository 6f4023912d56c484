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

// acknowledgeProgrammed makes the writer acknowledge assignments that the worker has applied, once
// the kernel and the name server reflect them. It never returns nil.
func (s *session) acknowledgeProgrammed(ctx context.Context) error {
	for {
		select {
		case <-s.appliedGrew:
		case <-ctx.Done():
			return ctx.Err()
		}
		sequence := s.applied.Load()
		for try := 0; s.c.deps.Programmed != nil; try++ {
			err := s.c.deps.Programmed(ctx)
			if err == nil {
				break
			}
			s.c.deps.Log.Debug("assignments are not programmed yet", "sequence", sequence, "err", err)
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

// setApplied records that the worker has applied the assignments up to this sequence.
func (s *session) setApplied(sequence uint64) {
	s.applied.Store(sequence)
	select {
	case s.appliedGrew <- struct{}{}:
	default:
	}
}
