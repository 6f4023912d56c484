//go:build linux

package peer

import (
	"bytes"
	"context"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestLimiter_SharesTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &limiter{rate: 1 << 20}
		began := time.Now()
		var readers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				r := limited{bytes.NewReader(make([]byte, 1<<20)), t.Context(), l}
				if n, err := io.Copy(io.Discard, struct{ io.Reader }{r}); n != 1<<20 || err != nil {
					t.Errorf("copied %d bytes: %v", n, err)
				}
			})
		}
		readers.Wait()
		if took := time.Since(began); took < 4*time.Second-limitBurst || took > 4*time.Second {
			t.Errorf("4 MiB at 1 MiB/s took %v", took)
		}
	})
}

func TestLimiter_Unlimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, began := &limiter{}, time.Now()
		if err := l.wait(t.Context(), 1<<40); err != nil || time.Since(began) > 0 {
			t.Errorf("waited %v, %v", time.Since(began), err)
		}
	})
}

func TestLimiter_CallerGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := (&limiter{rate: 1}).wait(ctx, 100); err == nil {
			t.Error("a caller that is gone still waits")
		}
	})
}
