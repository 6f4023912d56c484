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
	// checkInterval is the time between two checks. It polls because the kernel has no notification
	// for a full disk.
	checkInterval = time.Second
	// The disk counts as full if the free space is less than 1/fullPart of the disk and less than
	// fullBytes.
	fullPart  = 50
	fullBytes = 256 << 20
	// reserveBytes is the largest size of the reserve. The reserve is never larger than the free
	// space at which the disk counts as full.
	reserveBytes = 16 << 20
	reserveFile  = "reserve"
)

// Watch detects when the disk of a folder becomes full and when it has room again.
type Watch struct {
	dir string
	log *slog.Logger

	mu      sync.Mutex // guards the fields below, except complaint
	space   Space
	full    bool
	kept    bool // the reserve file exists
	changed broadcast.Signal

	complaint string // the last text that was logged; only Run uses it
}

// NewWatch makes a Watch and checks the disk once, so that Full is correct from the start. If the
// reserve file cannot be created, NewWatch ignores the error, and Run tries again.
func NewWatch(dir string, log *slog.Logger) (*Watch, error) {
	w := &Watch{dir: dir, log: log}
	_, err := w.check()
	return w, err
}

// Run checks the disk once a second until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			reserve, err := w.check()
			w.complain(errors.Join(reserve, err))
		case <-ctx.Done():
			return nil
		}
	}
}

// Follow calls changed after each change of Full until ctx ends.
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

// complain logs an error when its text changes, so that a lasting error is not logged every second.
func (w *Watch) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != w.complaint && text != "" {
		w.log.Warn("the disk cannot be checked completely", "err", text)
	}
	w.complaint = text
}

// Dir returns the folder.
func (w *Watch) Dir() string { return w.dir }

// Space returns the space at the last check.
func (w *Watch) Space() Space {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.space
}

// Now returns the space at this moment.
func (w *Watch) Now() (Space, error) { return Of(w.dir) }

// Full returns a text that says that the disk is full and what to do. It returns "" if the disk is
// not full.
func (w *Watch) Full() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.full {
		return ""
	}
	return fmt.Sprintf("its disk is full: make room on the file system of %s (%s), or run `swarm system prune`", w.dir, units.HumanSize(float64(w.space.Total)))
}

// Room returns errdefs.ErrResourceExhausted if the disk counts as full, or would after a write of
// the given number of bytes. With bytes = 0 it only checks whether the disk counts as full now.
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

// Changed returns a channel that is closed at the next change of Full. Get the channel before you
// call Full.
func (w *Watch) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed.Changed()
}

// check checks the disk and keeps or releases the reserve. reserve is the error of the reserve.
func (w *Watch) check() (reserve, err error) {
	space, err := Of(w.dir)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.space = space
	was := w.full
	w.full = w.isFullLocked(space)
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

// isFullLocked reports whether the disk counts as full. It counts as full when it still has a
// little room, which running tasks need. Afterwards it counts as full until it has twice that room,
// beside the room that the deleted reserve file has left.
func (w *Watch) isFullLocked(s Space) bool {
	least := leastFree(s)
	if w.full {
		return s.NoInodes || s.Free < 2*least+reserveOf(s)
	}
	return s.NoInodes || s.Free < least
}

func leastFree(s Space) uint64 { return min(s.Total/fullPart, fullBytes) }
func reserveOf(s Space) uint64 { return min(s.Total/fullPart, reserveBytes) }

// keepLocked creates the reserve file if it is missing, and if the disk will not count as full
// after that.
func (w *Watch) keepLocked() error {
	if w.kept || w.space.Free < 2*leastFree(w.space)+2*reserveOf(w.space) {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(w.dir, reserveFile), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("create the disk reserve: %w", err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(reserveOf(w.space))); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return errors.Join(fmt.Errorf("create the disk reserve: %w", err), os.Remove(f.Name()))
	}
	w.kept = true
	return nil
}

// releaseLocked deletes the reserve file, so that its room can be used.
func (w *Watch) releaseLocked() error {
	w.kept = false
	if err := os.Remove(filepath.Join(w.dir, reserveFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete the disk reserve: %w", err)
	}
	return nil
}
