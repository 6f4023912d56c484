//go:build linux

// Package lock says which process serves a node's containerd root, by a lock
// that the kernel keeps: it goes with its holder, however that ends, and nothing
// has to be cleaned up or guessed from a stale pid file.
//
// The runtime process acquires it for life, the daemon asks who holds it. The
// locks are POSIX record locks, because those can be asked for their holder; a
// process must not open the lock file of a lock it holds, which is why Acquire
// is called once in a process. No goroutines.
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

// Acquire takes the lock at path, or returns ErrAlreadyExists naming the holder.
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

// Release gives the lock up. Without it the process's end does.
func (l *Lock) Release() { l.f.Close() }

// Holder returns the process that holds the lock at path, 0 when none does.
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
