//go:build linux

package image

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

// trickle delivers a byte every pause, and nothing after the last.
type trickle struct {
	ctx   context.Context
	pause time.Duration
	bytes int
}

func (r *trickle) Read(p []byte) (int, error) {
	wait := r.pause
	if r.bytes == 0 {
		wait = 24 * time.Hour
	}
	select {
	case <-time.After(wait):
		r.bytes--
		return copy(p, "x"), nil
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	}
}

func TestWatchdog_EndsWhatStallsAndNotWhatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, watch := watched(t.Context(), patience)
		watch.ReadCloser = io.NopCloser(&trickle{ctx: ctx, pause: patience - time.Second, bytes: 100})
		data, err := io.ReadAll(watch)
		if len(data) != 100 || !errors.Is(err, errStalled) || !errdefs.IsUnavailable(classed(err)) {
			t.Errorf("got %d bytes, %v, want 100 and a stall", len(data), err)
		}
		if err := watch.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestWatchdog_LeavesCancellationAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(t.Context())
		ctx, watch := watched(parent, patience)
		watch.ReadCloser = io.NopCloser(&trickle{ctx: ctx})
		cancel()
		if _, err := io.ReadAll(watch); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want cancelled", err)
		}
		watch.stop()
	})
}

func TestRepositoryAndDomain(t *testing.T) {
	for _, c := range []struct{ name, repository, domain string }{
		{"docker.io/library/redis:7", "docker.io/library/redis", "docker.io"},
		{"localhost:5000/app", "localhost:5000/app", "localhost:5000"},
		{"localhost:5000/team/app:1", "localhost:5000/team/app", "localhost:5000"},
	} {
		if r, d := repository(c.name), domain(c.name); r != c.repository || d != c.domain {
			t.Errorf("%s: got %s, %s, want %s, %s", c.name, r, d, c.repository, c.domain)
		}
	}
}
