package main

import (
	"context"

	"swarm/containerd"
	"swarm/containerd/image"
	"swarm/internal/disk"
	"swarm/worker/engine"
	"swarm/worker/storage"
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

// hostStorage tells what lies on this host's disk.
type hostStorage struct {
	*image.Store
	*containerd.Runtime
}

func (h *host) storage() engine.Storage {
	if h.store == nil {
		return nil
	}
	return hostStorage{h.store, h.runtime.(*containerd.Runtime)}
}

func (h *host) space() storage.Space {
	if h.disk == nil {
		return nil
	}
	return h.disk
}
