//go:build linux

package containerd

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"

	"swarm/containerd/ocispec"
	"swarm/containerd/runc"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Update changes the limits of a container, and then its record, from which later calls read the
// current limits. A call that was interrupted between the two steps may be repeated. ErrNotFound:
// the container has ended or does not exist. ErrFailedPrecondition: the kernel refuses the limits,
// and the container runs on with the old ones.
func (r *Runtime) Update(ctx context.Context, taskID string, want *swarmv1.ResourceRequirements) error {
	if err := validID(taskID); err != nil {
		return err
	}
	if err := r.update(namespaced(ctx), taskID, want); err != nil {
		return fmt.Errorf("update container %s: %w", taskID, engine.Away(err))
	}
	return nil
}

func (r *Runtime) update(ctx context.Context, id string, want *swarmv1.ResourceRequirements) error {
	store := r.client.ContainerService()
	c, err := store.Get(ctx, id)
	if err != nil {
		return err
	}
	spec, err := decodeSpec(c)
	if err != nil {
		return err
	}
	if _, ended := r.readExit(id); ended {
		return fmt.Errorf("it has ended: %w", errdefs.ErrNotFound)
	}
	res := spec.Linux.Resources
	was := *res
	ocispec.SetLimits(res, want, r.host())
	if reflect.DeepEqual(was, *res) {
		return nil
	}
	if r.started(id) {
		if err := r.updateTask(ctx, id, ocispec.Change(res, r.host())); err != nil {
			return err
		}
	}
	if c.Spec, err = encodeSpec(spec); err != nil {
		return err
	}
	_, err = store.Update(ctx, c, "spec")
	return err
}

func (r *Runtime) updateTask(ctx context.Context, id string, change *specs.LinuxResources) error {
	packed, err := typeurl.MarshalAnyToProto(change)
	if err != nil {
		return fmt.Errorf("encode its limits: %w", err)
	}
	_, err = r.client.TaskService().Update(ctx, &tasks.UpdateTaskRequest{ContainerID: id, Resources: packed}, grpc.WaitForReady(true))
	if err == nil {
		return nil
	}
	err = errgrpc.ToNative(err)
	if ctx.Err() != nil || errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) {
		return err
	}
	if resp, gerr := r.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id}); gerr == nil && resp.Process.GetStatus() == tasktypes.Status_STOPPED {
		return fmt.Errorf("it has ended: %w", errdefs.ErrNotFound)
	}
	return limitError(err)
}

// limitError shortens runc's error to what the kernel says.
func limitError(err error) error {
	text := runc.Classify(err).Error()
	if i := strings.Index(text, "unable to set memory limit"); i >= 0 {
		text = text[i:]
	}
	return fmt.Errorf("%s: %w", strings.TrimSuffix(text, ": "+errdefs.ErrUnknown.Error()), errdefs.ErrFailedPrecondition)
}
