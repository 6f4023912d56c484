//go:build linux

package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// poll calls a function every few milliseconds until it succeeds or fails, or ctx ends. It is for
// changes of the kernel and of other processes for which there is no notification.
func poll(ctx context.Context, ok func() (bool, error)) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if done, err := ok(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// removeBusy removes an empty folder that may be busy for a moment.
func removeBusy(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := poll(ctx, func() (bool, error) {
		err := unix.Rmdir(dir)
		if errors.Is(err, unix.EBUSY) {
			return false, nil
		}
		if errors.Is(err, os.ErrNotExist) {
			return true, nil
		}
		return true, err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}
