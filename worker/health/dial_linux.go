package health

import (
	"context"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"swarm/internal/thread"
)

// dialer returns a function that dials from inside a network namespace. A socket belongs to the
// namespace of the thread that created it, and any thread may use it later.
func dialer(netns string) dialFunc {
	// The dialer tries one address after the other on the calling goroutine. By default Go dials
	// several at the same time, in goroutines on other threads.
	d := &net.Dialer{FallbackDelay: -1}
	if netns == "" {
		return d.DialContext
	}
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = thread.Run(func() error { // returns when ctx ends, at the latest
			if err := enter(netns); err != nil {
				return err
			}
			conn, err = d.DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
}

// enter moves the calling thread into a network namespace.
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
