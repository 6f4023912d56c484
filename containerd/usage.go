//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"swarm/containerd/meter"
	"swarm/internal/tree"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// overlayfs is the name of the snapshotter whose layout writtenTo knows.
const overlayfs = "overlayfs"

// ContainerSizes returns how many bytes each container has written to its own file system and to
// its volumes without a name. If a part of these cannot be read, ContainerSizes logs this and
// returns the size of the rest, because the sizes of the other containers are still useful.
func (r *Runtime) ContainerSizes(ctx context.Context) (map[string]int64, error) {
	ctx = namespaced(ctx)
	owned, err := r.owned(ctx)
	if err != nil {
		return nil, fmt.Errorf("sizes of containers: %w", err)
	}
	sizes := make(map[string]int64, len(owned))
	for _, c := range owned {
		size, err := r.containerSize(ctx, c)
		volumes, verr := r.volumes.TaskSize(ctx, c.ID)
		size += volumes
		err = errors.Join(err, verr)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("sizes of containers: %w", ctx.Err())
		}
		if err != nil {
			r.log.DebugContext(ctx, "size of a container is incomplete", "task", c.ID, "err", err)
		}
		sizes[c.ID] = size
	}
	return sizes, nil
}

// containerSize returns how many bytes a container has written to its own file system. It asks the
// snapshotter only if it does not know the folder: the snapshotter looks each file up by its whole
// path, which may be longer than a path may be.
func (r *Runtime) containerSize(ctx context.Context, c containers.Container) (int64, error) {
	dir, err := r.writtenTo(ctx, c.Snapshotter, c.SnapshotKey)
	if err != nil {
		return 0, ignoreNotFound(err)
	}
	if dir != "" {
		return tree.Size(ctx, dir)
	}
	u, err := r.client.SnapshotService(c.Snapshotter).Usage(ctx, c.SnapshotKey)
	return u.Size, ignoreNotFound(err)
}

// writtenTo returns the folder of the host in which the snapshotter overlayfs keeps the files that
// a container writes to its own file system. It is empty for other snapshotters.
func (r *Runtime) writtenTo(ctx context.Context, snapshotter, key string) (string, error) {
	if snapshotter != overlayfs {
		return "", nil
	}
	mounts, err := r.client.SnapshotService(snapshotter).Mounts(ctx, key)
	if err != nil || len(mounts) != 1 {
		return "", err
	}
	if m := mounts[0]; m.Type == "bind" { // It has no layers below it.
		return m.Source, nil
	}
	for _, o := range mounts[0].Options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			return dir, nil
		}
	}
	return "", nil
}

// VolumeSizes returns the size in bytes of each named volume, as volume.Store.Sizes counts it.
func (r *Runtime) VolumeSizes(ctx context.Context) (map[string]int64, error) {
	return r.volumes.Sizes(ctx)
}

// Volumes returns the volumes with a name of this node.
func (r *Runtime) Volumes() engine.Volumes { return r.volumes }

// Usage returns what the containers of these tasks use, without their traffic. Containers that do
// not run are missing in the result.
func (r *Runtime) Usage(ctx context.Context, taskIDs []string) ([]*swarmv1.TaskUsage, error) {
	return meter.Usage(namespaced(ctx), r.client.TaskService(), taskIDs)
}

// Processes returns the ids of the processes in the container of a task. ErrNotFound: the container
// does not run.
func (r *Runtime) Processes(ctx context.Context, taskID string) ([]uint32, error) {
	if err := validID(taskID); err != nil {
		return nil, err
	}
	list, err := r.client.TaskService().ListPids(namespaced(ctx), &tasks.ListPidsRequest{ContainerID: taskID})
	if err != nil {
		return nil, fmt.Errorf("processes of container %s: %w", taskID, engine.Away(errgrpc.ToNative(err)))
	}
	pids := make([]uint32, 0, len(list.GetProcesses()))
	for _, p := range list.GetProcesses() {
		pids = append(pids, p.GetPid())
	}
	return pids, nil
}
