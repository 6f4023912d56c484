// Package retry has the rules by which a worker repeats a call that failed: how long it pauses, and
// after which errors a repetition is of no use. It keeps no state and starts no goroutine. The
// packages below worker call it.
package retry

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/pause"
)

const (
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
)

// Backoff returns the pause after failure number try, counted from 0. The pause doubles from first
// to limit. Half of it is random, so that nodes that failed together do not come back together.
func Backoff(try int, first, limit time.Duration) time.Duration {
	d := limit
	if try < 16 && first<<try < limit {
		d = first << try
	}
	return d/2 + rand.N(d/2+1)
}

// IsPermanent reports whether the same call would fail again: the request is invalid, refused, not
// permitted or not implemented. Any other error may be transient.
func IsPermanent(err error) bool {
	return errdefs.IsInvalidArgument(err) || errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) ||
		errdefs.IsFailedPrecondition(err) || errdefs.IsNotImplemented(err)
}

// Until calls do until it succeeds, with pauses of up to 5 s, and logs each failure as a warning
// with the text what. It returns false when ctx ended before do succeeded.
func Until(ctx context.Context, log *slog.Logger, what string, do func() error) bool {
	for try := 0; ; try++ {
		err := do()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		log.Warn(what, "err", err)
		if pause.For(ctx, Backoff(try, firstPause, maxPause)) != nil {
			return false
		}
	}
}
