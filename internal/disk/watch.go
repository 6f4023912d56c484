//go:build linux

package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"swarm/internal/broadcast"
)

const (
	// lookEvery is how often the space is asked for: the kernel tells nobody.
	lookEvery = time.Second
	// The disk is full when less than 1/fullPart of it is free, and less than fullBytes.
	fullPart  = 50
	fullBytes = 256 << 20
	// reserveBytes is the largest reserve. It is never more than what makes a disk full.
	reserveBytes = 16 << 20
	reserveFile  = "reserve"
)

// Watch notices when the disk of a folder is full, and when it is not any more.
type Watch struct {
	dir string
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	space   Space
	full    bool
	kept    bool // the reserve is there
	changed broadcast.Signal

	complaint string // the last that was logged; Run's
}

// NewWatch looks once, so that Full is right from the start. A reserve that cannot be kept is left to Run.
func NewWatch(dir string, log *slog.Logger) (*Watch, error) {
	w := &Watch{dir: dir, log: log}
	_, err := w.look()
	return w, err
}

// Run looks until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			reserve, err := w.look()
			w.complain(errors.Join(reserve, err))
		case <-ctx.Done():
			return nil
		}
	}
}

// Follow calls changed each time that the disk has become full, or has room again, until ctx ends.
func (w *Watch) Follow(ctx context.Context, changed func()) {
	for {
		select {
		case <-w.Changed():
			changed()
		case <-ctx.Done():
			return
		}
	}
}

// complain logs what is wrong once, not every second.
func (w *Watch) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != w.complaint && text != "" {
		w.log.Warn("the disk is watched only in part", "err", text)
	}
	w.complaint = text
}

// Dir is the folder.
func (w *Watch) Dir() string { return w.dir }

// Space is what the last look saw.
func (w *Watch) Space() Space {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.space
}

// Now looks at this moment.
func (w *Watch) Now() (Space, error) { return Of(w.dir) }

// Full says that the disk is full, why and what to do; "" when it is not.
func (w *Watch) Full() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.full {
		return ""
	}
	return fmt.Sprintf("its disk is full: make room on the file system of %s (%s), or run `swarm system prune`", w.dir, units.HumanSize(float64(w.space.Total)))
}

// Room refuses what the disk has no room for: so many bytes, or any number when it is 0.
func (w *Watch) Room(bytes int64) error {
	if full := w.Full(); full != "" {
		return errdefs.ErrResourceExhausted.WithMessage(full)
	}
	space, err := w.Now()
	if err != nil || bytes <= 0 || uint64(bytes)+leastFree(space) <= space.Free {
		return err
	}
	return errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("its disk has %s left, too little for another %s: make room on the file system of %s, or run `swarm system prune`",
		units.HumanSize(float64(space.Free)), units.HumanSize(float64(bytes)), w.dir))
}

// Changed is closed when Full says something else. Ask for the channel before asking Full.
func (w *Watch) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed.Changed()
}

// look judges the disk, or says why it cannot; reserve is what is wrong with the reserve.
func (w *Watch) look() (reserve, err error) {
	space, err := Of(w.dir)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.space = space
	was := w.full
	w.full = w.judgeLocked(space)
	if w.full != was {
		w.changed.Broadcast()
		w.log.Warn(map[bool]string{true: "the disk is full", false: "the disk has room again"}[w.full],
			"path", w.dir, "free", space.Free, "total", space.Total)
	}
	if w.full {
		return w.releaseLocked(), nil
	}
	return w.keepLocked(), nil
}

// judgeLocked: full is a little room, not none, so that what runs can go on; and there must be clearly more before it is
// called otherwise, also without what the reserve gave.
func (w *Watch) judgeLocked(s Space) bool {
	least := leastFree(s)
	if w.full {
		return s.NoNames || s.Free < 2*least+reserveOf(s)
	}
	return s.NoNames || s.Free < least
}

func leastFree(s Space) uint64 { return min(s.Total/fullPart, fullBytes) }
func reserveOf(s Space) uint64 { return min(s.Total/fullPart, reserveBytes) }

// keepLocked makes the reserve when it is missing and there is ample room for it.
func (w *Watch) keepLocked() error {
	if w.kept || w.space.Free < 2*leastFree(w.space)+2*reserveOf(w.space) {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(w.dir, reserveFile), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep a reserve: %w", err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(reserveOf(w.space))); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return errors.Join(fmt.Errorf("keep a reserve: %w", err), os.Remove(f.Name()))
	}
	w.kept = true
	return nil
}

func (w *Watch) releaseLocked() error {
	w.kept = false
	if err := os.Remove(filepath.Join(w.dir, reserveFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release the reserve: %w", err)
	}
	return nil
}
