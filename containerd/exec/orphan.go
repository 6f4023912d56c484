//go:build linux

package exec

import (
	"context"
	"syscall"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
)

// EndAll kills every process that Run of this or an earlier daemon has started in a container, and
// returns how many there were. ctx carries containerd's namespace. If the container does not exist,
// EndAll returns 0.
func (r *Runner) EndAll(ctx context.Context, id string) (int, error) {
	resp, err := r.client.TaskService().ListPids(ctx, &tasks.ListPidsRequest{ContainerID: id})
	if err != nil {
		return 0, ignoreNotFound(errgrpc.ToNative(err))
	}
	ended := 0
	for _, p := range resp.Processes {
		if p.Info == nil {
			continue // It is the container's first process, or a child of some process.
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
			continue // It does not exist any more.
		}
		_, err = r.client.TaskService().DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: id, ExecID: details.ExecID})
		if err := ignoreNotFound(errgrpc.ToNative(err)); err != nil {
			return ended, err
		}
	}
	return ended, nil
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
