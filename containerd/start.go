//go:build linux

package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	"swarm/containerd/runc"
	"swarm/containerd/volume"
	"swarm/internal/private"
	"swarm/worker/engine"
)

// prepared is what Start needs to know of a container.
type prepared struct {
	service  string
	rootfs   []mount.Mount
	logs     string // folder of the output files; empty: output is discarded
	terminal bool
	stdin    bool
	staged   []volume.Place // in the order of the staging folder
}

// Start runs a prepared container. It makes two calls to containerd if this process has prepared
// the container. ErrNotFound: the container was not prepared. ErrFailedPrecondition: it has run
// before. ErrInvalidArgument: runc cannot start it as the service asks. ErrRuntimeAway: containerd
// does not answer, and the container may run.
func (r *Runtime) Start(ctx context.Context, taskID string) (engine.Started, error) {
	if err := validID(taskID); err != nil {
		return engine.Started{}, err
	}
	pid, err := r.start(namespaced(ctx), taskID)
	if err != nil {
		return engine.Started{}, fmt.Errorf("start the container: %w", engine.Away(err))
	}
	return engine.Started{Pid: pid}, nil
}

func (r *Runtime) start(ctx context.Context, id string) (uint32, error) {
	if r.started(id) {
		// The mark is written before the process is started, and this daemon or an earlier one may
		// have been killed between the two.
		if err := r.wantCreated(ctx, id); err != nil {
			return 0, err
		}
		return r.run(ctx, id)
	}
	p, err := r.recall(ctx, id)
	if err != nil {
		return 0, err
	}
	if err := r.loadGroups(ctx); err != nil {
		return 0, err
	}
	req, err := r.createRequest(id, p)
	if err != nil {
		return 0, err
	}
	if err := r.volumes.Stage(id, p.staged); err != nil {
		return 0, err
	}
	err = r.createTask(ctx, req, p.service)
	// If the call was cancelled or has no answer, a shim may still set the container up and need
	// the staging folder. The next Start or Remove then removes the folder.
	outcomeKnown := err == nil || (ctx.Err() == nil && !errdefs.IsUnavailable(err))
	if outcomeKnown && len(p.staged) > 0 {
		err = errors.Join(err, r.volumes.Unstage(id))
	}
	if err != nil {
		return 0, err
	}
	// From here on the container counts as started.
	if err := r.markStarted(id); err != nil {
		return 0, err
	}
	return r.run(ctx, id)
}

// createTask makes a shim set the container up, without starting its process. (For containerd, a
// container in this state is a *task*.) createTask makes up to shimAttempts attempts. If a shim has
// ended, the next attempt uses another shim. If the container is set up already and waits to be
// started, createTask returns nil. If the container has ended before it was started, containerd or
// the daemon was killed during the set-up. createTask then sets the container up again.
func (r *Runtime) createTask(ctx context.Context, req *tasks.CreateTaskRequest, service string) error {
	id := req.ContainerID
	err := r.tryCreateTask(ctx, req, service)
	for attempt := 1; attempt < shimAttempts; attempt++ {
		switch {
		case errors.Is(err, errShimEnded):
			r.log.InfoContext(ctx, "shim has ended, trying another one", "task", id, "err", err)
			r.groups.Retire(id)
		case errdefs.IsAlreadyExists(err):
			if created, err := r.isCreated(ctx, id); created || err != nil {
				return err
			}
			r.log.InfoContext(ctx, "set-up of a container was abandoned, setting it up again", "task", id)
			if err := r.groups.Leave(ctx, id); err != nil {
				return err
			}
			if err := r.deleteWhenSetUp(ctx, id); err != nil {
				return err
			}
		default:
			return err
		}
		err = r.tryCreateTask(ctx, req, service)
	}
	if errdefs.IsAlreadyExists(err) {
		return r.wantCreated(ctx, id)
	}
	return err
}

// errShimEnded says that the shim of the container's group has ended and does not have the
// container. The shim was killed, or it ended because its first container could not be set up.
var errShimEnded = errors.New("the shim has ended")

// shimAttempts is how many attempts createTask makes.
const shimAttempts = 3

// tryCreateTask makes the shim of the container's group set the container up.
func (r *Runtime) tryCreateTask(ctx context.Context, req *tasks.CreateTaskRequest, service string) error {
	id := req.ContainerID
	group, moved, err := r.groups.Join(ctx, id, service)
	if err != nil {
		return err
	}
	if moved {
		if err := r.regroup(ctx, id, group); err != nil {
			r.groups.JoinFailed(id)
			return err
		}
	}
	_, err = r.client.TaskService().Create(ctx, req)
	err = errgrpc.ToNative(err)
	if err == nil || errdefs.IsAlreadyExists(err) {
		r.groups.JoinSucceeded(id)
		return err
	}
	if ctx.Err() == nil && isSetUpByAnother(err, id) {
		err = errdefs.ErrUnavailable.WithMessage("an earlier call still sets it up or removes it")
	}
	if ctx.Err() == nil && errdefs.IsUnavailable(err) {
		return err // The shim may have the container. The next Start or Remove finds out.
	}
	r.groups.JoinFailed(id)
	if ctx.Err() == nil && isShimFailure(err) {
		return fmt.Errorf("%w: %w", errShimEnded, err)
	}
	return runc.Classify(err)
}

// isSetUpByAnother reports whether containerd found the container's bundle folder in place: a call
// of an earlier daemon, which was killed, still sets the container up or removes it. containerd's
// error for this has no class, so only its text tells.
func isSetUpByAnother(err error, id string) bool {
	return strings.Contains(err.Error(), "mkdir ") && strings.HasSuffix(err.Error(), "/"+id+": file exists")
}

// isShimFailure reports whether containerd could not reach the shim. containerd's errors for this,
// and for a container that runc cannot set up, have no class, so only their texts tell them apart.
func isShimFailure(err error) bool {
	text := err.Error()
	return !strings.Contains(text, "OCI runtime") && (strings.Contains(text, "ttrpc") || strings.Contains(text, "shim"))
}

// run starts the process of a container that is set up. If that fails, run deletes the container
// from its shim.
func (r *Runtime) run(ctx context.Context, id string) (uint32, error) {
	resp, err := r.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: id})
	if err == nil {
		r.forget(id)
		return resp.Pid, nil
	}
	err = runc.Classify(errgrpc.ToNative(err))
	if ctx.Err() != nil || errdefs.IsUnavailable(err) {
		return 0, err // The process may run. Wait finds out.
	}
	after := context.WithoutCancel(ctx)
	if lerr := r.groups.Leave(ctx, id); lerr != nil {
		return 0, errors.Join(err, lerr)
	}
	if _, derr := r.client.TaskService().Delete(after, &tasks.DeleteTaskRequest{ContainerID: id}); derr != nil && !errdefs.IsNotFound(errgrpc.ToNative(derr)) {
		r.log.WarnContext(ctx, "container that did not start was not deleted from its shim", "task", id, "err", derr)
	}
	return 0, errors.Join(err, r.unmarkStarted(id))
}

// wantCreated returns ErrFailedPrecondition unless the container is set up and waits to be started.
func (r *Runtime) wantCreated(ctx context.Context, id string) error {
	created, err := r.isCreated(ctx, id)
	if err == nil && !created {
		err = fmt.Errorf("it has run before: %w", errdefs.ErrFailedPrecondition)
	}
	return err
}

// isCreated reports whether a container is set up and waits to be started.
func (r *Runtime) isCreated(ctx context.Context, id string) (bool, error) {
	resp, err := r.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
	if err != nil {
		return false, ignoreNotFound(errgrpc.ToNative(err))
	}
	return resp.Process.GetStatus() == tasktypes.Status_CREATED, nil
}

func (r *Runtime) createRequest(id string, p prepared) (*tasks.CreateTaskRequest, error) {
	req := &tasks.CreateTaskRequest{ContainerID: id, Terminal: p.terminal, Rootfs: mount.ToProto(p.rootfs)}
	if p.logs != "" {
		// The files exist, and the shim appends to them.
		req.Stdout = filepath.Join(p.logs, engine.StdoutFile)
		if !p.terminal {
			req.Stderr = filepath.Join(p.logs, engine.StderrFile)
		}
	}
	if p.stdin {
		if err := private.Folder(r.taskDir(id)); err != nil {
			return nil, err
		}
		// No process writes to this pipe, so the container's input stays open and empty.
		req.Stdin = filepath.Join(r.taskDir(id), "stdin")
		if err := unix.Mkfifo(req.Stdin, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("standard input: %w", err)
		}
	}
	return req, nil
}

func (r *Runtime) remember(id string, p prepared) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.prepared[id] = p
}

func (r *Runtime) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.prepared, id)
}

// recall returns what Start needs to know of a container: what Prepare has remembered, or, if an
// earlier process has prepared the container, what containerd's record of it says.
func (r *Runtime) recall(ctx context.Context, id string) (prepared, error) {
	r.mu.Lock()
	p, ok := r.prepared[id]
	r.mu.Unlock()
	if ok {
		return p, nil
	}
	c, err := r.client.ContainerService().Get(ctx, id)
	if err != nil {
		return p, err
	}
	if err := r.volumes.Mount(id); err != nil {
		return p, err
	}
	spec, err := decodeSpec(c)
	if err != nil {
		return p, err
	}
	staged, err := volume.Staged(spec.Annotations)
	if err != nil {
		return p, err
	}
	rootfs, err := r.client.SnapshotService(c.Snapshotter).Mounts(ctx, c.SnapshotKey)
	if err != nil {
		return p, err
	}
	return prepared{
		service:  c.Labels[labelService],
		rootfs:   rootfs,
		logs:     c.Labels[labelLogs],
		terminal: spec.Process != nil && spec.Process.Terminal,
		stdin:    c.Labels[labelStdin] != "",
		staged:   staged,
	}, nil
}
