//go:build linux

package watchdog

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

// trickle delivers a piece after each pause, and nothing after the last piece.
type trickle struct {
	ctx    context.Context
	pause  time.Duration
	pieces int
	size   int // of a piece
}

func (r *trickle) Read(p []byte) (int, error) {
	wait := r.pause
	if r.pieces == 0 {
		wait = 24 * time.Hour
	}
	select {
	case <-time.After(wait):
		r.pieces--
		return min(len(p), r.size), nil
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	}
}

func TestBody_EndsWhatStallsAndNotWhatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, watch := Watch(t.Context(), Timeout)
		watch.ReadCloser = io.NopCloser(&trickle{ctx: ctx, pause: Timeout - time.Second, pieces: 100, size: pieceSize})
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{watch}, make([]byte, pieceSize))
		if n != 100*pieceSize || !errors.Is(err, ErrStalled) || !errdefs.IsUnavailable(err) {
			t.Errorf("got %d bytes, %v, want %d and a stall", n, err, 100*pieceSize)
		}
		if err := watch.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A source that delivers a byte before each deadline must not hold up a pull without end.
func TestBody_EndsWhatDrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, watch := Watch(t.Context(), Timeout)
		watch.ReadCloser = io.NopCloser(&trickle{ctx: ctx, pause: Timeout / 10, pieces: 1 << 30, size: 1})
		began := time.Now()
		if _, err := io.ReadAll(watch); !errors.Is(err, ErrStalled) || time.Since(began) > 3*Timeout {
			t.Errorf("got %v after %v, want a stall within %v", err, time.Since(began), 3*Timeout)
		}
		watch.Stop()
	})
}

// A node that is just fast enough not to stall is replaced by another source.
func TestBody_EndsWhatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 256 << 10
		for size, want := range map[int]error{rate / 8: ErrSlow, rate: ErrStalled} {
			ctx, watch := Watch(t.Context(), Timeout)
			watch.Rate = rate
			watch.ReadCloser = io.NopCloser(&trickle{ctx: ctx, pause: time.Second, pieces: 60, size: size})
			began := time.Now()
			_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{watch}, make([]byte, rate))
			if took := time.Since(began); !errors.Is(err, want) || want == ErrSlow && took > 2*credit {
				t.Errorf("%d bytes a second: got %v after %v, want %v", size, err, took, want)
			}
			watch.Stop()
		}
	})
}

func TestBody_LeavesCancellationAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(t.Context())
		ctx, watch := Watch(parent, Timeout)
		watch.ReadCloser = io.NopCloser(&trickle{ctx: ctx})
		cancel()
		if _, err := io.ReadAll(watch); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want cancelled", err)
		}
		watch.Stop()
	})
}
