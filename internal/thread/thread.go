//go:build linux

// Package thread runs code that changes what belongs to an OS thread: its namespaces. It owns the rule that such a thread
// serves nobody else afterwards, and that the main thread, which never ends and is what /proc/<pid> shows, is left where it is.
// It keeps nothing, and runs one goroutine while its caller waits.
package thread

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Run runs fn on an OS thread of its own, which ends with it: fn may change the thread's namespaces at will. A process
// that fn starts inherits them.
func Run(fn func() error) error {
	return Lend(func() (bool, error) { return false, fn() })
}

// Lend runs fn locked to a thread and waits; the thread returns to the scheduler's pool only when fn says that it is clean.
func Lend(fn func() (clean bool, err error)) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// While the main thread waits here, locked, fn gets another.
			done <- Lend(fn)
			runtime.UnlockOSThread()
			return
		}
		clean, err := fn()
		if clean {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
