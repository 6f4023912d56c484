// Package pause is a wait that a context can end. It owns a timer while it waits, and no goroutine. Anybody may call it.
package pause

import (
	"context"
	"time"
)

// For waits for d, or for ctx to end: then it gives ctx's error.
func For(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
