//go:build linux

package shim

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/log"

	"swarm/internal/pause"
)

// idleTimeout is how long a shim goes on without a container. A shim starts without a container,
// and a busy host may need seconds until it asks for the first one.
const idleTimeout = 30 * time.Second

// endWhenIdle ends the shim when it has had no container for idleTimeout. Normally containerd asks
// the shim to end, but nobody asks a shim whose containerd was killed, or gave up the first
// container, before it had connected to the shim. It returns when ctx ends.
func (r *recorder) endWhenIdle(ctx context.Context) {
	begun := -1
	for pause.For(ctx, idleTimeout) == nil {
		r.deleteForgotten(ctx)
		r.mu.Lock()
		idle := len(r.setups) == 0 && len(r.watches) == 0 && r.begun == begun
		begun = r.begun
		r.mu.Unlock()
		if !idle {
			continue
		}
		if _, err := r.TTRPCTaskService.Shutdown(ctx, &taskapi.ShutdownRequest{}); err != nil {
			log.G(ctx).WithError(err).Warn("shim without containers does not end")
		}
	}
}

// deleteForgotten deletes the containers that have ended and whose bundle is gone. containerd has
// forgotten such a container: it removes a bundle also when the shim did not answer.
func (r *recorder) deleteForgotten(ctx context.Context) {
	bundles := make(map[string]string)
	r.mu.Lock()
	for id, w := range r.watches {
		if len(r.setupsLocked(id)) == 0 {
			bundles[id] = w.bundle
		}
	}
	r.mu.Unlock()
	for id, bundle := range bundles {
		if _, err := os.Stat(bundle); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		resp, err := r.TTRPCTaskService.State(ctx, &taskapi.StateRequest{ID: id})
		if err == nil && resp.Status == tasktypes.Status_STOPPED {
			_, err = r.Delete(ctx, &taskapi.DeleteRequest{ID: id})
		}
		if err != nil {
			log.G(ctx).WithError(err).WithField("id", id).Warn("container without a bundle is not deleted")
		}
	}
}
