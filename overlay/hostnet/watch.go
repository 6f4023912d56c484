//go:build linux

package hostnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"swarm/internal/pause"
)

// Notices selects netlink messages with which the kernel reports changes.
type Notices struct {
	// Of names the objects that change. It is part of error texts.
	Of string
	// Protocol is a netlink family, and Groups a bit mask of its multicast groups.
	Protocol int
	Groups   uint32
}

// Watch subscribes to the notices and calls check. Then it calls check again after each notice, at
// most once an interval, until ctx ends. If there are too many notices, the kernel drops some and
// reports this; Watch then calls check too.
func Watch(ctx context.Context, n Notices, interval time.Duration, check func(context.Context)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, n.Protocol)
	if err != nil {
		return fmt.Errorf("watch %s: %w", n.Of, err)
	}
	f := os.NewFile(uintptr(fd), "notices of "+n.Of)
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: n.Groups}); err != nil {
		return fmt.Errorf("watch %s: %w", n.Of, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		check(ctx)
		_, err := f.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("watch %s: %w", n.Of, err)
		}
		if pause.For(ctx, interval) != nil {
			return nil
		}
		// A notice that arrives after drain starts another round.
		drain(f, buf)
		if ctx.Err() != nil {
			return nil
		}
	}
}

// drain discards the notices that have queued up.
func drain(f *os.File, buf []byte) {
	for {
		_ = f.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := f.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			break
		}
	}
	_ = f.SetReadDeadline(time.Time{})
}
