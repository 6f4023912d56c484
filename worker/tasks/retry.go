package tasks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"swarm/internal/pause"
	"swarm/worker/engine"
	"swarm/worker/retry"
)

// withRetries calls do until it succeeds, up to maxAttempts times. It returns a permanent error at
// once.
func (t *taskLoop) withRetries(ctx context.Context, what string, do func() error) error {
	for try := 0; ; try++ {
		err := do()
		if err == nil || ctx.Err() != nil || retry.IsPermanent(err) || try == maxAttempts-1 {
			return err
		}
		t.r.deps.Log.Warn(what, "task", t.id, "err", err)
		if pause.For(ctx, retry.Backoff(try, retryFirst, retryLimit)) != nil {
			return err
		}
	}
}

// awayReported is the number of calls without an answer, in a row, after which the task's status
// says that the runtime does not answer. A runtime that was killed answers again after two or
// three.
const awayReported = 5

// untilAnswered repeats a call to the runtime while the runtime does not answer, because its
// absence is not a failure of the task. what names the call in logs and in the task's status.
func (t *taskLoop) untilAnswered(ctx context.Context, what string, do func() error) error {
	for try := 0; ; try++ {
		err := do()
		if !errors.Is(err, engine.ErrRuntimeAway) || ctx.Err() != nil {
			if try >= awayReported {
				t.setErr("")
			}
			return err
		}
		t.r.deps.Log.Warn(what+" again", "task", t.id, "err", err)
		if try == awayReported-1 {
			t.setErr(fmt.Sprintf("%s: %v", what, err))
		}
		if pause.For(ctx, retry.Backoff(try, 100*time.Millisecond, retryLimit)) != nil {
			return err
		}
	}
}
