package pause_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"swarm/internal/pause"
)

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if err := pause.For(t.Context(), time.Minute); err != nil || time.Since(began) != time.Minute {
			t.Errorf("a minute: %v after %s", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if err := pause.For(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("cut short: %v after %s", err, time.Since(began))
		}
		if err := pause.For(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("none, of a context that has ended: %v", err)
		}
		if err := pause.For(t.Context(), 0); err != nil {
			t.Errorf("none: %v", err)
		}
	})
}
