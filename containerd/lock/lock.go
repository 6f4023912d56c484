//go:build linux

// Package lock tells which process serves the containerd root folder of a node, by a lock that the
// kernel keeps. The kernel releases the lock when its process ends for any reason. So there is
// nothing to clean up, and no pid file that could name the wrong process.
//
// The runtime process acquires the lock for its whole life. The daemon asks which process holds it.
// The locks are POSIX record locks, because the kernel tells their holder. Such a lock is lost when
// its process opens and closes the lock file again; therefore a process calls Acquire once, and
// does not call Holder for a lock that it holds. The package runs no goroutine.
package lock

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Lock is a held lock.
type Lock struct{ f *os.File }

// Acquire takes the lock at path. ErrAlreadyExists: another process holds the lock; the error names
// it.
func Acquire(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
	if err == nil {
		return &Lock{f: f}, nil
	}
	defer f.Close()
	if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	holder, err := holderOf(f)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return nil, fmt.Errorf("process %d already does: %w", holder, errdefs.ErrAlreadyExists)
}

// Release gives up the lock. The end of the process does the same.
func (l *Lock) Release() { l.f.Close() }

// Holder returns the id of the process that holds the lock at path, or 0 if no process does.
func Holder(path string) (int, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("lock: %w", err)
	}
	defer f.Close()
	return holderOf(f)
}

func holderOf(f *os.File) (int, error) {
	q := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &q); err != nil {
		return 0, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	if q.Type == unix.F_UNLCK {
		return 0, nil
	}
	return int(q.Pid), nil
}
