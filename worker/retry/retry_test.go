package retry_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"swarm/worker/retry"
)

func TestBackoff(t *testing.T) {
	for _, tc := range []struct {
		try  int
		want time.Duration
	}{{0, time.Second}, {1, 2 * time.Second}, {3, 8 * time.Second}, {4, 10 * time.Second}, {1000, 10 * time.Second}} {
		for range 100 {
			if got := retry.Backoff(tc.try, time.Second, 10*time.Second); got < tc.want/2 || got > tc.want {
				t.Errorf("Backoff(%d) = %s, want %s to %s", tc.try, got, tc.want/2, tc.want)
			}
		}
	}
}

func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		ok := retry.Until(t.Context(), slog.New(slog.DiscardHandler), "call", func() error {
			if calls++; calls < 3 {
				return errors.New("not yet")
			}
			return nil
		})
		if !ok || calls != 3 {
			t.Errorf("Until = %t after %d calls, want true after 3", ok, calls)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if retry.Until(ctx, slog.New(slog.DiscardHandler), "call", func() error { return errors.New("never") }) {
			t.Error("Until = true after its context has ended")
		}
	})
}
