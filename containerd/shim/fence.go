//go:build linux

package shim

import (
	"context"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"swarm/worker/lease"
)

const (
	// fencePoll is the longest time between two looks at a lease. Timers stand still while the
	// machine is suspended, but the lease runs on.
	fencePoll = time.Second
	// fenceRetry is the time after which fence kills a container again that has not ended.
	fenceRetry = 100 * time.Millisecond
)

// fence kills a container when its lease has run out, because another node may then run a task of
// the same slot. It returns when the container has ended or is deleted.
func (r *recorder) fence(ctx context.Context, id string, w *watch) {
	for {
		left := lease.Left(w.lease)
		if left <= 0 {
			w.mu.Lock()
			first := !w.fenced
			w.fenced = true
			w.mu.Unlock()
			_, err := r.TTRPCTaskService.Kill(ctx, &taskapi.KillRequest{ID: id, Signal: uint32(unix.SIGKILL), All: true})
			if first {
				log.G(ctx).WithField("id", id).WithError(err).Warn("container killed: its lease has run out")
			}
			left = fenceRetry
		}
		timer := time.NewTimer(min(left, fencePoll))
		select {
		case <-timer.C:
		case <-w.done:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}
