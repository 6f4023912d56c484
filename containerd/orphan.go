//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
)

// EndExecs kills the second processes of this node's containers, and returns how many there were. It is for a daemon that
// starts: whoever had them run, and would have read what they say, went with the daemon before it.
func (r *Runtime) EndExecs(ctx context.Context) (int, error) {
	ctx = namespaced(ctx)
	owned, err := r.owned(ctx)
	if err != nil {
		return 0, fmt.Errorf("end execs: %w", err)
	}
	running, err := r.running(ctx)
	if err != nil {
		return 0, fmt.Errorf("end execs: %w", err)
	}
	ended := 0
	var errs []error
	for _, c := range owned {
		if _, runs := running[c.ID]; !runs {
			continue
		}
		n, err := r.endExecs(ctx, c.ID)
		ended += n
		if err != nil {
			errs = append(errs, fmt.Errorf("end execs in container %s: %w", c.ID, err))
		}
	}
	return ended, errors.Join(errs...)
}

func (r *Runtime) endExecs(ctx context.Context, id string) (int, error) {
	resp, err := r.client.TaskService().ListPids(ctx, &tasks.ListPidsRequest{ContainerID: id})
	if err != nil {
		return 0, ignoreNotFound(errgrpc.ToNative(err))
	}
	ended := 0
	for _, p := range resp.Processes {
		if p.Info == nil {
			continue // the container's own, or one of their children
		}
		info, err := typeurl.UnmarshalAny(p.Info)
		if err != nil {
			return ended, err
		}
		details, ok := info.(*options.ProcessDetails)
		if !ok || details.ExecID == "" {
			continue
		}
		_, err = r.client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: id, ExecID: details.ExecID, Signal: uint32(syscall.SIGKILL)})
		if err := ignoreNotFound(errgrpc.ToNative(err)); err != nil {
			return ended, err
		}
		ended++
		if _, err := r.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: id, ExecID: details.ExecID}); err != nil {
			continue // it is gone already
		}
		_, err = r.client.TaskService().DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: id, ExecID: details.ExecID})
		if err := ignoreNotFound(errgrpc.ToNative(err)); err != nil {
			return ended, err
		}
	}
	return ended, nil
}
