// Package pause provides a wait that a context can end. It uses a timer and no goroutine.
package pause

import (
	"context"
	"time"
)

// For waits for d. If ctx ends first, For returns the error of ctx.
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
