package tasks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/pause"
	"swarm/worker/engine"
	"swarm/worker/retry"
)

// Which failed calls a loop repeats, and how often:
//
//	untilAnswered  any call to the runtime, while the runtime does not answer
//	withRetries    attach networks, create container: any error that is not permanent, up to 4 calls
//	pull           pull image: any error that is not permanent and not ErrNotFound, up to 5 calls
//	changeRunning  change limits, exchange secrets and configs: ErrUnavailable, without a limit
//	wait           wait for the container: any error but ErrNotFound, without a limit
//	untilDone      stop and remove container: any error, without a limit

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

// changeRunning repeats a change of the running container while it fails with ErrUnavailable. It
// returns nil, too, if the container has ended (ErrNotFound), because wait reports that. what names
// the change in logs.
func (t *taskLoop) changeRunning(ctx context.Context, what string, do func() error) error {
	for try := 0; ; try++ {
		err := do()
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err == nil || ctx.Err() != nil || !errdefs.IsUnavailable(err) {
			return err
		}
		t.r.deps.Log.Warn(what, "task", t.id, "err", err)
		if pause.For(ctx, retry.Backoff(try, 100*time.Millisecond, retryLimit)) != nil {
			return err
		}
	}
}

// untilDone repeats a call to the runtime until it succeeds, and returns false if ctx ends first.
// what names the call in logs. While the call fails, the task's status has the error, because the
// user waits for the task's end. The absence of the runtime is only logged.
func (t *taskLoop) untilDone(ctx context.Context, what string, do func() error) bool {
	t.mu.Lock()
	before := t.status.Err
	t.mu.Unlock()
	reported := before
	done := retry.Until(ctx, t.r.deps.Log, what, func() error {
		err := do()
		if err != nil && ctx.Err() == nil && !errors.Is(err, engine.ErrRuntimeAway) && err.Error() != reported {
			reported = err.Error()
			t.setErr(reported)
		}
		return err
	})
	if reported != before {
		t.setErr(before)
	}
	return done
}
