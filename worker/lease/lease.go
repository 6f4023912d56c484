//go:build linux

// Package lease keeps the end of a node's lease. Until that time the managers start no replacement
// of the node's single-writer tasks on another node. After that time these tasks must not run here.
//
// The daemon moves the end whenever the managers confirm a heartbeat. The shims of single-writer
// tasks read the end, and kill their containers at that time. The end is stored in a file, so that
// the lease runs out by itself if the daemon dies. It is a time of CLOCK_BOOTTIME, a clock that
// nobody can set and that continues during a suspension of the machine. The time means nothing
// after a reboot, so a reboot must clear the file's folder.
//
// The package runs no goroutine. Its functions are safe for concurrent use by one daemon and many
// shims.
package lease

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Now returns the time since the machine was booted, including suspensions.
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err)) // every supported kernel has it
	}
	return time.Duration(ts.Nano())
}

// Left returns how much of the lease in a file is left. It is 0 if the lease has run out, and if
// the file cannot be read, because a container whose lease is not known must not run.
func Left(path string) time.Duration { return max(End(path)-Now(), 0) }

// End returns the time since boot at which the lease in a file runs out, or 0 if the file cannot be
// read.
func End(path string) time.Duration {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	end, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(end)
}

// Lease is the daemon's side of the file. Its methods are safe for concurrent use.
type Lease struct {
	path string
	now  func() time.Duration

	mu  sync.Mutex // guards the fields below, and the file
	end time.Duration
	// filed says that the file follows end.
	filed bool
}

// New returns the lease in a file, which need not exist. If it exists, New keeps the end that an
// earlier daemon was granted. now is Now, except in tests.
func New(path string, now func() time.Duration) *Lease {
	_, err := os.Stat(path)
	return &Lease{path: path, now: now, end: End(path), filed: err == nil}
}

// File returns the path of the file, for the shim of a single-writer task. The file follows the end
// from the first call on. Nodes without such tasks have no file, because they would write to it
// every second.
func (l *Lease) File() (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.filed {
		return l.path, nil
	}
	l.filed = true
	return l.path, l.setLocked(l.end)
}

// Begin sets the end to a time since boot. The time may be earlier than the current end, because a
// new session begins, and what an earlier session granted is not valid any more.
func (l *Lease) Begin(end time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.setLocked(end)
}

// Renew sets the end to a time since boot. It ignores a time before the current end.
func (l *Lease) Renew(end time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if end <= l.end {
		return nil
	}
	return l.setLocked(end)
}

// setLocked sets the end, and the file if it follows the end. It replaces the file by a rename but
// does not sync it, and therefore does not use package durable: the file must not survive a reboot,
// and the sync would delay every heartbeat.
func (l *Lease) setLocked(end time.Duration) error {
	l.end = end
	if !l.filed {
		return nil
	}
	next := filepath.Join(filepath.Dir(l.path), "."+filepath.Base(l.path))
	if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
		return fmt.Errorf("renew the lease of single-writer tasks: %w", err)
	}
	err := os.WriteFile(next, []byte(strconv.FormatInt(int64(end), 10)), 0o600)
	if err == nil {
		err = os.Rename(next, l.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("renew the lease of single-writer tasks: %w", err), os.Remove(next))
	}
	return nil
}

// Left returns how much of the lease is left, or 0 if it has run out.
func (l *Lease) Left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.end-l.now(), 0)
}
