//go:build linux

package containerd

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/moby/sys/signal"

	"swarm/internal/pause"
	"swarm/internal/tree"
	"swarm/worker/containerd/layout"
	"swarm/worker/engine"
)

// Stop sends the signal, and after grace SIGKILL to all of the container's processes, and returns when it has ended.
// An empty signal is the one that spec or image name, else SIGTERM.
func (r *Runtime) Stop(ctx context.Context, taskID, sig string, grace time.Duration) error {
	if err := validID(taskID); err != nil {
		return err
	}
	if err := r.stop(namespaced(ctx), taskID, sig, grace); err != nil {
		return fmt.Errorf("stop container %s: %w", taskID, engine.Away(err))
	}
	return nil
}

func (r *Runtime) stop(ctx context.Context, id, sig string, grace time.Duration) error {
	if grace > 0 {
		number, err := r.stopSignal(ctx, id, sig)
		if err != nil || number == 0 {
			return err
		}
		if gone, err := r.kill(ctx, id, number, false); gone || err != nil {
			return err
		}
		patient, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		if _, err := r.wait(patient, id); patient.Err() == nil || ctx.Err() != nil {
			return ended(err)
		}
	}
	if gone, err := r.kill(ctx, id, syscall.SIGKILL, true); gone || err != nil {
		return err
	}
	_, err := r.wait(ctx, id)
	return ended(err)
}

// stopSignal is 0 when there is no such container.
func (r *Runtime) stopSignal(ctx context.Context, id, sig string) (syscall.Signal, error) {
	if sig == "" {
		c, err := r.client.ContainerService().Get(ctx, id)
		if errdefs.IsNotFound(err) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		sig = cmp.Or(c.Labels[labelSignal], "SIGTERM")
	}
	number, err := signal.ParseSignal(sig)
	if err != nil {
		return 0, fmt.Errorf("signal %q: no such signal: %w", sig, errdefs.ErrInvalidArgument)
	}
	return number, nil
}

// kill signals the container's first process, or all; gone when it does not run.
func (r *Runtime) kill(ctx context.Context, id string, sig syscall.Signal, all bool) (gone bool, err error) {
	_, err = r.client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(sig), All: all})
	if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) {
		return true, nil
	}
	return false, err
}

// ended takes what was removed meanwhile, or has never been started, for stopped.
func ended(err error) error {
	if errdefs.IsFailedPrecondition(err) {
		return nil
	}
	return ignoreNotFound(err)
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// Remove deletes the container, killing it if it runs, and all that Prepare made, save named volumes. It goes on past
// what is gone already, so that a removal that was cut short is finished by the next.
func (r *Runtime) Remove(ctx context.Context, taskID string) error {
	if err := validID(taskID); err != nil {
		return err
	}
	ctx = namespaced(ctx)
	if err := r.remove(ctx, taskID); err != nil {
		return fmt.Errorf("remove container %s: %w", taskID, engine.Away(err))
	}
	return nil
}

func (r *Runtime) remove(ctx context.Context, id string) error {
	r.forget(id)
	if err := r.groups.leave(ctx, id); err != nil {
		return err
	}
	if err := r.deleteWhole(ctx, id); err != nil {
		return err
	}
	if err := r.removeCgroup(ctx, id); err != nil {
		return err
	}
	if err := r.unstage(id); err != nil {
		return err
	}
	if err := r.removeEtc(id); err != nil {
		return err
	}
	if err := r.emptyRootfs(ctx, id); err != nil {
		return fmt.Errorf("file system: %w", err)
	}
	// The record goes last of what containerd has: List names the container as long as something is left.
	err := r.client.SnapshotService(r.cfg.Snapshotter).Remove(ctx, id)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("file system: %w", err)
	}
	if err := r.client.ContainerService().Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	r.groups.forget(id)
	if r.cfg.Exits != "" {
		if err := r.exits.Remove(layout.Namespace, id); err != nil {
			return err
		}
	}
	return r.removeFolders(ctx, id)
}

// emptyRootfs removes what a container has written to its own file system. The snapshotter, which removes the rest, has a
// descriptor open for each level of folders, and a container can make more levels than it may have descriptors.
func (r *Runtime) emptyRootfs(ctx context.Context, id string) error {
	dir, err := r.writtenTo(ctx, r.cfg.Snapshotter, id)
	if err != nil || dir == "" {
		return ignoreNotFound(err)
	}
	return tree.RemoveBelow(ctx, dir)
}

// A shim that still sets a container up is waited for, with a bound: containerd gives one that it has given up on 5 s to
// clean up.
const (
	setUpPatience = 10 * time.Second
	setUpLook     = 50 * time.Millisecond
)

// deleteWhole deletes the task, also one that containerd does not know yet: a shim goes on setting a container up when the
// daemon that asked for it has died. Meanwhile there is a bundle and no task.
func (r *Runtime) deleteWhole(ctx context.Context, id string) error {
	wait, cancel := context.WithTimeout(ctx, setUpPatience)
	defer cancel()
	for {
		if err := r.deleteTask(ctx, id); err != nil || r.cfg.Exits == "" {
			return err
		}
		bundle := filepath.Join(layout.Bundles(filepath.Dir(r.cfg.Exits)), layout.Namespace, id)
		if _, err := os.Stat(bundle); err != nil {
			return nil
		}
		if err := pause.For(wait, setUpLook); err != nil {
			return ctx.Err()
		}
	}
}

// deleteTask deletes what the shim has, by force if need be.
func (r *Runtime) deleteTask(ctx context.Context, id string) error {
	del := func() error {
		_, err := r.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
		return ignoreNotFound(errgrpc.ToNative(err))
	}
	err := del()
	if err == nil || ctx.Err() != nil {
		return err
	}
	// A shim that refuses says why in words only: whether it runs has to be asked.
	resp, gerr := r.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
	if gerr != nil {
		return ignoreNotFound(errgrpc.ToNative(gerr))
	}
	if resp.Process.GetStatus() == tasktypes.Status_STOPPED {
		return err
	}
	if err := r.stop(ctx, id, "", 0); err != nil {
		return err
	}
	return del()
}
