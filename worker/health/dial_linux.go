package health

import (
	"context"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"swarm/internal/thread"
)

// dialer dials from inside a network namespace. A socket belongs to the namespace of the thread
// that made it, wherever it is used later.
func dialer(netns string) dialFunc {
	// One address after the other, on the calling goroutine: racing them, as Go does by default,
	// would leave the thread.
	d := &net.Dialer{FallbackDelay: -1}
	if netns == "" {
		return d.DialContext
	}
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = thread.Run(func() error { // ends with ctx at the latest
			if err := enter(netns); err != nil {
				return err
			}
			conn, err = d.DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
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
