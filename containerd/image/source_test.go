//go:build linux

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

// trickle delivers a piece every pause, and nothing after the last.
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

func TestWatchdog_EndsWhatStallsAndNotWhatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, watch := watched(t.Context(), patience)
		watch.ReadCloser = io.NopCloser(&trickle{ctx: ctx, pause: patience - time.Second, pieces: 100, size: pieceSize})
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{watch}, make([]byte, pieceSize))
		if n != 100*pieceSize || !errors.Is(err, errStalled) || !errdefs.IsUnavailable(classed(err)) {
			t.Errorf("got %d bytes, %v, want %d and a stall", n, err, 100*pieceSize)
		}
		if err := watch.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A source that delivers a byte before each deadline must not hold up a pull for ever.
func TestWatchdog_EndsWhatDrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, watch := watched(t.Context(), patience)
		watch.ReadCloser = io.NopCloser(&trickle{ctx: ctx, pause: patience / 10, pieces: 1 << 30, size: 1})
		began := time.Now()
		if _, err := io.ReadAll(watch); !errors.Is(err, errStalled) || time.Since(began) > 3*patience {
			t.Errorf("got %v after %v, want a stall within %v", err, time.Since(began), 3*patience)
		}
		watch.stop()
	})
}

// A node that delivers just enough not to stall is left for another source.
func TestWatchdog_EndsWhatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for size, want := range map[int]error{nodeRate / 8: errSlow, nodeRate: errStalled} {
			ctx, watch := watched(t.Context(), patience)
			watch.rate = nodeRate
			watch.ReadCloser = io.NopCloser(&trickle{ctx: ctx, pause: time.Second, pieces: 60, size: size})
			began := time.Now()
			_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{watch}, make([]byte, nodeRate))
			if took := time.Since(began); !errors.Is(err, want) || want == errSlow && took > 2*nodeCredit {
				t.Errorf("%d bytes a second: got %v after %v, want %v", size, err, took, want)
			}
			watch.stop()
		}
	})
}

// slowSource is a node that is too slow until it has been called so.
type slowSource struct {
	registry
	lame *lame
}

func (s *slowSource) last() bool     { return s.lame.has("slow") }
func (s *slowSource) fault()         { s.lame.note("slow") }
func (s *slowSource) peer() bool     { return true }
func (s *slowSource) String() string { return "slow" }

// A slow node comes after the registry, in this pull and in those of the next minutes, and is not given up.
func TestEach_SlowNodesComeLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, last := &slowSource{lame: &lame{}}, &registry{name: "localhost/app"}
		pull := func() (order []string) {
			d := &download{sources: []source{slow, last}, dropped: map[source]bool{}, log: slog.New(slog.DiscardHandler)}
			err := d.each(t.Context(), func(src source) error {
				order = append(order, src.String())
				switch {
				case src == last:
					return errdefs.ErrNotFound
				case slow.last():
					return nil
				}
				return errSlow
			})
			if err != nil {
				t.Error(err)
			}
			return order
		}
		for _, want := range []string{"[slow registry localhost slow]", "[registry localhost slow]"} {
			if got := fmt.Sprint(pull()); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		time.Sleep(lameFor)
		if slow.last() {
			t.Error("it is lame for ever")
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
