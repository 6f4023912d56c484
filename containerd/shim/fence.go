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
	// fencePoll bounds how late a lease is noticed that ran out while the machine was suspended:
	// timers stand still then, and the lease does not.
	fencePoll = time.Second
	// fenceAgain is when a container that was killed and has not ended is killed again.
	fenceAgain = 100 * time.Millisecond
)

// fence kills a container when its lease has run out: its node has been out of contact for so long
// that another node may run a task of the same slot. It returns when the container has ended or is
// deleted.
func (r *recorder) fence(ctx context.Context, id string, w *watch) {
	for {
		left := lease.Left(w.lease)
		if left <= 0 {
			w.mu.Lock()
			news := !w.fenced
			w.fenced = true
			w.mu.Unlock()
			_, err := r.TTRPCTaskService.Kill(ctx, &taskapi.KillRequest{ID: id, Signal: uint32(unix.SIGKILL), All: true})
			if news {
				log.G(ctx).WithField("id", id).WithError(err).Warn("container killed: its lease has run out")
			}
			left = fenceAgain
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
