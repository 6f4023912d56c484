package health

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// dialer dials from inside a network namespace. A socket belongs to the namespace of the thread that made it, wherever
// it is used later.
func dialer(netns string) dialFunc {
	// One address after the other, on the calling goroutine: racing them, as Go does by default, would leave the thread.
	d := &net.Dialer{FallbackDelay: -1}
	if netns == "" {
		return d.DialContext
	}
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		onThread(func() { // ends with ctx at the latest
			if err = enter(netns); err == nil {
				conn, err = d.DialContext(ctx, network, addr)
			}
		})
		return conn, err
	}
}

// onThread runs fn on a thread that is in the wrong namespace for everybody else afterwards, and ends with it. The main
// thread never ends, and would hold the namespace as long as the daemon lives: while it waits here, locked, fn gets another.
func onThread(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			onThread(fn)
			runtime.UnlockOSThread()
			return
		}
		fn()
	}()
	<-done
}

func enter(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return nil
}
