//go:build linux

package disk

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// small mounts a small file system for the test.
func small(t *testing.T, size string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skip("no tmpfs here: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes to a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<16); ; {
		if _, err := f.Write(block); err != nil {
			if !IsFull(fmt.Errorf("write: %w", err)) {
				t.Fatal(err)
			}
			return
		}
	}
}

func TestWatch_FullAndBack(t *testing.T) {
	dir := small(t, "100m")
	w, err := NewWatch(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Room(0), w.Room(1<<20)); err != nil {
		t.Errorf("there is room: %v", err)
	}
	if err := w.Room(99 << 20); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "too little for another") {
		t.Errorf("room for nearly all of the disk: got %v, want a refusal", err)
	}
	reserve := filepath.Join(dir, reserveFile)
	if _, err := os.Stat(reserve); err != nil || w.Full() != "" {
		t.Fatalf("at first: %q, reserve: %v", w.Full(), err)
	}
	changed := w.Changed()
	fill(t, filepath.Join(dir, "other"))
	if _, err := w.check(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("nobody is told that the disk is full")
	}
	if _, err := os.Stat(reserve); err == nil || w.Full() == "" {
		t.Fatalf("full: %q, and the reserve is still there", w.Full())
	}
	// The room of the released reserve does not count as room.
	if _, err := w.check(); err != nil || w.Full() == "" {
		t.Fatalf("full, on the second look: %q, %v", w.Full(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "state"), make([]byte, 1<<20), 0o600); err != nil {
		t.Errorf("write from the reserve: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.check(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(reserve); err != nil || w.Full() != "" {
		t.Fatalf("room again: %q, reserve: %v", w.Full(), err)
	}
}

// A file with reserved room can be written on a full disk, both before and after its end.
func TestAhead(t *testing.T) {
	dir := small(t, "20m")
	path := filepath.Join(dir, "state")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(2 << 20); err != nil { // a hole
		t.Fatal(err)
	}
	if err := ReserveBeyondEnd(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != 2<<20 {
		t.Fatalf("the size changed: %v, %v", st.Size(), err)
	}
	fill(t, filepath.Join(dir, "other"))
	if _, err := f.WriteAt(make([]byte, 3<<20), 0); err != nil {
		t.Errorf("write what was kept: %v", err)
	}
	if _, err := f.WriteAt([]byte{1}, 4<<20); err == nil {
		t.Error("the disk is not full after all")
	}
	if err := ReserveBeyondEnd(path, 1<<20); !IsFull(err) {
		t.Errorf("more, of a full disk: got %v, want %v", err, syscall.ENOSPC)
	}
}

func TestSpace_UsedPercent(t *testing.T) {
	for _, c := range []struct {
		s    Space
		want int
	}{{Space{}, 0}, {Space{Total: 100, Free: 15}, 85}, {Space{Total: 1000, Free: 151}, 84}, {Space{Total: 7}, 100}} {
		if got := c.s.UsedPercent(); got != c.want {
			t.Errorf("%+v: got %d, want %d", c.s, got, c.want)
		}
	}
}
