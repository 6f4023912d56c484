//go:build linux

package process

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"swarm/install"
)

func TestWait(t *testing.T) {
	failed := errors.New("failed")
	for _, c := range []struct {
		what  string
		parts time.Duration // from the end of the daemon's context to their end
		took  time.Duration
		err   error
	}{
		{"parts that end", time.Second, time.Second, failed},
		{"a part that hangs", time.Hour, endGrace, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, end := context.WithCancel(t.Context())
			time.AfterFunc(time.Minute, end)
			began := time.Now()
			err := Wait(ctx, func() error {
				<-ctx.Done()
				time.Sleep(c.parts)
				return failed
			}, slog.New(slog.NewTextHandler(t.Output(), nil)))
			if took := time.Since(began) - time.Minute; took != c.took || !errors.Is(err, c.err) {
				t.Errorf("%s: ended after %v with %v, want %v and %v", c.what, took, err, c.took, c.err)
			}
			time.Sleep(c.parts) // the bubble ends with its last goroutine
		})
	}
}

// Tasks are stopped only if the host goes down. The service manager then waits for them.
func TestDepart(t *testing.T) {
	for _, c := range []struct {
		what      string
		cause     error
		goingDown bool
		takes     time.Duration
		leaves    bool
		told      int
	}{
		{"another build takes over", errReplaced, true, time.Second, false, 0},
		{"the daemon is stopped", nil, false, time.Second, false, 0},
		{"the init stops the host", nil, true, time.Second, true, 1},
		{"the power fails", errDown, false, time.Second, true, 1},
		{"tasks take long", errDown, false, 25 * time.Second, true, 3},
		{"tasks take too long", errDown, false, time.Hour, true, 30},
	} {
		synctest.Test(t, func(t *testing.T) {
			ended, end := context.WithCancelCause(t.Context())
			end(c.cause)
			left, told := false, 0
			leave := func(ctx context.Context) error {
				left = true
				select {
				case <-time.After(c.takes):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			tell := func(string) error {
				told++
				return nil
			}
			depart(ended, leave, func(context.Context) bool { return c.goingDown }, tell, slog.New(slog.DiscardHandler))
			if left != c.leaves || told < c.told || told > c.told+1 {
				t.Errorf("%s: leaves %t and asks %d times for time, want %t and %d", c.what, left, told, c.leaves, c.told)
			}
		})
	}
}

// An init that does not answer delays the end by a few seconds, and tasks are not stopped.
func TestDepart_InitThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended, end := context.WithCancel(t.Context())
		end()
		began := time.Now()
		hangs := func(ctx context.Context) bool {
			<-ctx.Done()
			return false
		}
		depart(ended, func(context.Context) error {
			t.Error("tasks are stopped")
			return nil
		}, hangs, nil, slog.New(slog.DiscardHandler))
		if took := time.Since(began); took != askTimeout {
			t.Errorf("took %v, want %v", took, askTimeout)
		}
	})
}

func TestWatch_TellsSignalsApart(t *testing.T) {
	for _, c := range []struct {
		signal   syscall.Signal
		replaced bool
		cause    error
	}{{install.ReplaceSignal, true, errReplaced}, {downSignal, false, errDown}} {
		ctx, stop := Watch(t.Context())
		if err := syscall.Kill(os.Getpid(), c.signal); err != nil {
			t.Fatal(err)
		}
		<-ctx.Done()
		if Replaced(ctx) != c.replaced || !errors.Is(context.Cause(ctx), c.cause) {
			t.Errorf("%v: replaced %t, cause %v", c.signal, Replaced(ctx), context.Cause(ctx))
		}
		stop()
	}
}
