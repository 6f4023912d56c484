//go:build linux

package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/moby/sys/signal"

	"swarm/containerd/layout"
	"swarm/containerd/shim"
	"swarm/internal/pause"
	"swarm/internal/tree"
	"swarm/worker/engine"
)

// Stop sends the signal sig to the container's first process, waits for grace, then sends SIGKILL
// to all of the container's processes. It returns when the container has ended. An empty sig stands
// for the signal in the spec or the image, else for SIGTERM. Stop of a container that does not
// exist or never ran succeeds. If the container's shim does not answer, Stop kills the processes in
// the container's cgroup, and returns when they have ended. ErrInvalidArgument: there is no such
// signal.
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
		waitCtx, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		gone, err := r.kill(ctx, id, number, false, max(grace, killTimeout))
		if gone || err != nil && !errors.Is(err, errShimSilent) {
			return err
		}
		_, err = r.wait(waitCtx, id)
		graceOver := waitCtx.Err() != nil && ctx.Err() == nil
		if !graceOver {
			return ignoreNotRunning(err)
		}
	}
	gone, err := r.kill(ctx, id, syscall.SIGKILL, true, killTimeout)
	switch {
	case errors.Is(err, errShimSilent):
		return r.killCgroup(ctx, id)
	case gone || err != nil:
		return err
	}
	waitCtx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	_, err = r.wait(waitCtx, id)
	if waitCtx.Err() != nil && ctx.Err() == nil {
		return r.killCgroup(ctx, id)
	}
	return ignoreNotRunning(err)
}

// Signal sends a signal to the container's first process. See engine.Runtime.
func (r *Runtime) Signal(ctx context.Context, taskID, sig string) error {
	if err := validID(taskID); err != nil {
		return err
	}
	if err := r.signal(namespaced(ctx), taskID, sig); err != nil {
		return fmt.Errorf("signal container %s: %w", taskID, engine.Away(err))
	}
	return nil
}

func (r *Runtime) signal(ctx context.Context, id, sig string) error {
	number, err := r.stopSignal(ctx, id, sig)
	if err != nil {
		return err
	}
	gone, err := r.kill(ctx, id, number, false, killTimeout)
	if gone {
		return fmt.Errorf("it has ended: %w", errdefs.ErrNotFound)
	}
	return err
}

const (
	// killTimeout is how long a shim may take to send a signal, and how long a container may take
	// to end after SIGKILL, before Stop kills the container's cgroup itself.
	killTimeout = 5 * time.Second
	// deleteTimeout is how long a shim may take to delete a container that has ended.
	deleteTimeout = 30 * time.Second
)

// errShimSilent says that a shim does not answer. It may be frozen, or wait for a disk.
var errShimSilent = fmt.Errorf("its shim does not answer: if the process %s of its group is stopped, send it SIGCONT, and kill it if that does not help: %w",
	shim.Name, context.DeadlineExceeded)

// isSilent reports whether a call failed because its own deadline has passed, and not that of ctx.
// Of a call to a shim, containerd returns only the text of the error, and may return it before the
// deadline has passed here.
func isSilent(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() == nil && strings.Contains(err.Error(), context.DeadlineExceeded.Error())
}

// stopSignal returns the signal that ends a container, or 0 if the container does not exist.
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

// kill sends a signal to the container's first process, or with all to every process of the
// container. gone says that the container does not run. If the shim takes longer than timeout, kill
// returns errShimSilent.
func (r *Runtime) kill(ctx context.Context, id string, sig syscall.Signal, all bool, timeout time.Duration) (gone bool, err error) {
	killCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err = r.client.TaskService().Kill(killCtx, &tasks.KillRequest{ContainerID: id, Signal: uint32(sig), All: all})
	err = errgrpc.ToNative(err)
	if isSilent(ctx, err) {
		return false, errShimSilent
	}
	if errdefs.IsNotFound(err) {
		return true, nil
	}
	return false, err
}

// ignoreNotRunning returns nil for the errors that wait returns for a container that was removed or
// never started: such a container counts as stopped.
func ignoreNotRunning(err error) error {
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

// Remove deletes the container, killing it if it runs, and everything that Prepare has made except
// named volumes. It skips what is removed already, so that a repeated call completes a removal that
// was interrupted.
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
	if err := r.groups.Leave(ctx, id); err != nil {
		return err
	}
	if err := r.deleteWhenSetUp(ctx, id); err != nil {
		return err
	}
	if err := r.removeCgroup(ctx, id); err != nil {
		return err
	}
	if r.cfg.Exits != "" {
		if err := r.removeBundle(ctx, id); err != nil {
			return err
		}
	}
	if err := r.volumes.Unstage(id); err != nil {
		return err
	}
	if err := r.volumes.Release(id); err != nil {
		return err
	}
	if err := r.removeEtc(id); err != nil {
		return err
	}
	if err := r.emptyRootfs(ctx, id); err != nil {
		return fmt.Errorf("file system: %w", err)
	}
	// The record is the last of containerd's objects to be deleted, so that List returns the
	// container until nothing of it is left.
	err := r.client.SnapshotService(r.cfg.Snapshotter).Remove(ctx, id)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("file system: %w", err)
	}
	if err := r.client.ContainerService().Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	r.groups.Forget(id)
	if r.cfg.Exits != "" {
		if err := r.exits.Remove(layout.Namespace, id); err != nil {
			return err
		}
	}
	return r.removeFolders(ctx, id)
}

// emptyRootfs removes the files that a container has written to its own file system. The
// snapshotter cannot always remove them: it opens a descriptor for each level of folders, and a
// container can make more levels than a process may have descriptors.
func (r *Runtime) emptyRootfs(ctx context.Context, id string) error {
	dir, err := r.writtenTo(ctx, r.cfg.Snapshotter, id)
	if err != nil || dir == "" {
		return ignoreNotFound(err)
	}
	return tree.RemoveBelow(ctx, dir)
}

const (
	// setUpTimeout bounds the wait for a shim that still sets a container up. containerd gives a
	// shim whose set-up it has abandoned 5 s to clean up.
	setUpTimeout = 10 * time.Second
	// setUpPoll is how often the shim's bundle is looked for.
	setUpPoll = 50 * time.Millisecond
)

// deleteWhenSetUp deletes the task. If a shim still sets the container up, it first waits until
// containerd knows the task: a shim continues to set a container up after the containerd that asked
// for it has died, and during that time there is a bundle and no task.
func (r *Runtime) deleteWhenSetUp(ctx context.Context, id string) error {
	wait, cancel := context.WithTimeout(ctx, setUpTimeout)
	defer cancel()
	for {
		if err := r.deleteTask(ctx, id); err != nil || r.cfg.Exits == "" {
			return err
		}
		if _, err := os.Stat(r.bundle(id)); err != nil {
			return nil
		}
		if err := pause.For(wait, setUpPoll); err != nil {
			return ctx.Err()
		}
	}
}

// deleteTask deletes the task in the shim, and kills its processes if they still run.
func (r *Runtime) deleteTask(ctx context.Context, id string) error {
	del := func() error {
		delCtx, cancel := context.WithTimeout(ctx, deleteTimeout)
		defer cancel()
		_, err := r.client.TaskService().Delete(delCtx, &tasks.DeleteTaskRequest{ContainerID: id})
		if isSilent(ctx, err) {
			return errShimSilent
		}
		return ignoreNotFound(errgrpc.ToNative(err))
	}
	err := del()
	if err == nil || ctx.Err() != nil || errors.Is(err, errShimSilent) {
		return err
	}
	// The shim's error has no class, so ask whether the task still runs.
	resp, gerr := r.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
	if isSilent(ctx, gerr) {
		return errShimSilent
	}
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
