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
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		type answer struct {
			conn net.Conn
			err  error
		}
		answers := make(chan answer, 1)
		go func() {
			// Never unlocked: the thread is in the wrong namespace for everybody else, and ends with the goroutine.
			runtime.LockOSThread()
			var a answer
			if a.err = enter(netns); a.err == nil {
				a.conn, a.err = d.DialContext(ctx, network, addr)
			}
			answers <- a
		}()
		a := <-answers // ends with ctx at the latest
		return a.conn, a.err
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
