package main

import (
	"context"

	"swarm/internal/disk"
)

// watchDisk has the worker tell the managers when the disk is full, and when it is not any more.
func watchDisk(ctx context.Context, w *disk.Watch, redescribe func()) error {
	for {
		changed := w.Changed()
		select {
		case <-changed:
			redescribe()
		case <-ctx.Done():
			return nil
		}
	}
}
