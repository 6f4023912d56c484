package manager

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A duty that panics ends neither the process nor the term. It starts again after growing pauses.
func TestKeepRunning_RetriesPanicsAndFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		m := &Manager{log: slog.New(slog.NewTextHandler(&log, nil))}
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var attempts []time.Duration
		m.keepRunning(ctx, "plan", func(context.Context) error {
			attempts = append(attempts, time.Since(began))
			if len(attempts) == 4 {
				cancel()
				return nil
			}
			var missing *Manager
			_ = missing.cfg // panics, because the pointer is nil
			return nil
		})
		if want := []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second}; !slices.Equal(attempts, want) {
			t.Errorf("attempts: got %v, want %v", attempts, want)
		}
		if got := log.String(); strings.Count(got, "nil pointer") != 3 || !strings.Contains(got, "duty_test.go") {
			t.Errorf("log: got %s, want three panics with their stacks", got)
		}
	})
}
