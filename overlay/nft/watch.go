//go:build linux

package nft

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"swarm/internal/pause"
)

// Watch calls check after changes to the host's nftables, at most once an
// interval. Losing notices is harmless: the loss itself is one.
func Watch(ctx context.Context, interval time.Duration, check func(context.Context) error, log *slog.Logger) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	f := os.NewFile(uintptr(fd), "nftables events")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		_, err := f.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("watch nftables: %w", err)
		}
		if pause.For(ctx, interval) != nil {
			return nil
		}
		// What comes after this is looked at in the next round.
		drain(f, buf)
		if ctx.Err() != nil {
			return nil
		}
		if err := check(ctx); err != nil && ctx.Err() == nil {
			log.Warn("check the host's firewall rules", "err", err)
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
