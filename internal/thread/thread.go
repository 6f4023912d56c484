//go:build linux

// Package thread runs code that changes the namespaces of an OS thread. No other code uses such a
// thread afterwards. The main thread never changes its namespaces, because it never ends and
// /proc/<pid> shows its namespaces. The package keeps no state, and runs one goroutine while its
// caller waits.
package thread

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Run runs fn on an OS thread that ends afterwards, so fn may change the namespaces of the thread.
// A process that fn starts inherits them.
func Run(fn func() error) error {
	return RunReusable(func() (bool, error) { return false, fn() })
}

// RunReusable runs fn locked to an OS thread and waits for it. The Go scheduler may use the thread
// again only if fn returns clean = true, which means that the namespaces of the thread are
// unchanged.
func RunReusable(fn func() (clean bool, err error)) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The main thread is locked while it waits here, so fn gets another thread.
			done <- RunReusable(fn)
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
