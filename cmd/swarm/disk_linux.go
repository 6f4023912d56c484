package main

import (
	"swarm/worker"
	"swarm/worker/containerd"
	"swarm/worker/containerd/image"
)

// storage tells what lies on this host's disk.
type storage struct {
	*image.Store
	*containerd.Runtime
}

func (h *host) storage() worker.Storage {
	if h.store == nil {
		return nil
	}
	return storage{h.store, h.runtime.(*containerd.Runtime)}
}

func (h *host) space() worker.Space {
	if h.disk == nil {
		return nil
	}
	return h.disk
}
