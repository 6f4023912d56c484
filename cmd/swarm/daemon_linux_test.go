package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

func TestAwait(t *testing.T) {
	failed := errors.New("failed")
	for _, c := range []struct {
		what  string
		parts time.Duration // until they end, from the daemon's end on
		took  time.Duration
		err   error
	}{
		{"parts that end", time.Second, time.Second, failed},
		{"a part that hangs", time.Hour, endGrace, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, end := context.WithCancel(t.Context())
			p := &parts{log: slog.New(slog.NewTextHandler(t.Output(), nil))}
			time.AfterFunc(time.Minute, end)
			began := time.Now()
			err := p.await(ctx, func() error {
				<-ctx.Done()
				time.Sleep(c.parts)
				return failed
			})
			if took := time.Since(began) - time.Minute; took != c.took || !errors.Is(err, c.err) {
				t.Errorf("%s: ended after %v with %v, want %v and %v", c.what, took, err, c.took, c.err)
			}
			time.Sleep(c.parts) // The bubble ends with its last goroutine.
		})
	}
}
