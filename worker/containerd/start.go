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

	"swarm/internal/private"
	"swarm/worker/engine"
)

// prepared is what Start needs to know of a container.
type prepared struct {
	service  string
	rootfs   []mount.Mount
	logs     string // folder; empty: output is discarded
	terminal bool
	stdin    bool
	staged   []place // in the order of the staging folder
}

// Start runs a prepared container: two calls to containerd when this process prepared it.
func (r *Runtime) Start(ctx context.Context, taskID string) (engine.Started, error) {
	if err := validID(taskID); err != nil {
		return engine.Started{}, err
	}
	pid, err := r.start(namespaced(ctx), taskID)
	if err != nil {
		return engine.Started{}, fmt.Errorf("start container %s: %w", taskID, engine.Away(err))
	}
	return engine.Started{Pid: pid}, nil
}

func (r *Runtime) start(ctx context.Context, id string) (uint32, error) {
	if r.started(id) {
		// A process before us may have been killed between its mark and the start.
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
	if err := r.stage(id, p.staged); err != nil {
		return 0, err
	}
	err = r.createOnce(ctx, req, p.service)
	// Where the outcome is not known a shim may still set the container up: the next start or Remove unstages.
	if len(p.staged) > 0 && (err == nil || ctx.Err() == nil && !errdefs.IsUnavailable(err)) {
		err = errors.Join(err, r.unstage(id))
	}
	if err != nil {
		return 0, err
	}
	// From here on the container counts as one that has run.
	if err := r.markStarted(id); err != nil {
		return 0, err
	}
	return r.run(ctx, id)
}

// createOnce has a shim set the container up, another one when the first has left. A container that is set up already, and
// waits to be started, is as good. One that ended before it was ever started is set up anew: it was given up while it was set
// up, by a runtime that was killed or whose caller was, and how its first process ended says nothing of the task.
func (r *Runtime) createOnce(ctx context.Context, req *tasks.CreateTaskRequest, service string) error {
	id := req.ContainerID
	err := r.create(ctx, req, service)
	for attempt := 1; attempt < shimAttempts; attempt++ {
		switch {
		case errors.Is(err, errShimLeft):
			r.log.InfoContext(ctx, "another shim takes the container", "task", id, "err", err)
			r.groups.retire(id)
		case errdefs.IsAlreadyExists(err):
			if created, err := r.isCreated(ctx, id); created || err != nil {
				return err
			}
			r.log.InfoContext(ctx, "the container was given up while it was set up, and is set up anew", "task", id)
			if err := r.groups.leave(ctx, id); err != nil {
				return err
			}
			if err := r.deleteWhole(ctx, id); err != nil {
				return err
			}
		default:
			return err
		}
		err = r.create(ctx, req, service)
	}
	if errdefs.IsAlreadyExists(err) {
		return r.wantCreated(ctx, id)
	}
	return err
}

// errShimLeft: the shim of the container's group ended while it was asked for one more: it was killed, or the one
// container that it was started for could not be set up.
var errShimLeft = errors.New("the shim did not answer")

// shimAttempts is how many shims a container may see end.
const shimAttempts = 3

// create has a shim set the container up.
func (r *Runtime) create(ctx context.Context, req *tasks.CreateTaskRequest, service string) error {
	id := req.ContainerID
	group, moved, err := r.groups.join(ctx, id, service)
	if err != nil {
		return err
	}
	if moved {
		if err := r.regroup(ctx, id, group); err != nil {
			r.groups.left(id)
			return err
		}
	}
	_, err = r.client.TaskService().Create(ctx, req)
	if err = errgrpc.ToNative(err); err == nil || errdefs.IsAlreadyExists(err) {
		r.groups.joined(id)
		return err
	}
	if ctx.Err() == nil && isSetUpByAnother(err, id) {
		err = errdefs.ErrUnavailable.WithMessage("an earlier call that sets it up is not over")
	}
	if ctx.Err() == nil && errdefs.IsUnavailable(err) {
		return err // The shim may have it: the next Start or Remove tells.
	}
	r.groups.left(id)
	if ctx.Err() == nil && !strings.Contains(err.Error(), "OCI runtime") &&
		(strings.Contains(err.Error(), "ttrpc") || strings.Contains(err.Error(), "shim")) {
		return fmt.Errorf("%w: %w", errShimLeft, err)
	}
	return classify(err)
}

// isSetUpByAnother reports whether containerd found the container's bundle folder in place: an
// earlier call, of a daemon that was killed, still sets the container up or removes it. containerd
// returns an error without a class for this.
func isSetUpByAnother(err error, id string) bool {
	return strings.Contains(err.Error(), "mkdir ") && strings.HasSuffix(err.Error(), "/"+id+": file exists")
}

// run starts the process of a created task, or takes the task away again.
func (r *Runtime) run(ctx context.Context, id string) (uint32, error) {
	resp, err := r.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: id})
	if err == nil {
		r.forget(id)
		return resp.Pid, nil
	}
	err = classify(errgrpc.ToNative(err))
	if ctx.Err() != nil || errdefs.IsUnavailable(err) {
		return 0, err // it may run: Wait will tell
	}
	after := context.WithoutCancel(ctx)
	if lerr := r.groups.leave(ctx, id); lerr != nil {
		return 0, errors.Join(err, lerr)
	}
	if _, derr := r.client.TaskService().Delete(after, &tasks.DeleteTaskRequest{ContainerID: id}); derr != nil && !errdefs.IsNotFound(errgrpc.ToNative(derr)) {
		r.log.WarnContext(ctx, "task that did not start remains", "task", id, "err", derr)
	}
	return 0, errors.Join(err, r.unmarkStarted(id))
}

// wantCreated is nil for a task that was created and has not been started.
func (r *Runtime) wantCreated(ctx context.Context, id string) error {
	created, err := r.isCreated(ctx, id)
	if err == nil && !created {
		err = fmt.Errorf("it has run before: %w", errdefs.ErrFailedPrecondition)
	}
	return err
}

// isCreated tells whether a task was created and has not been started.
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
		// Paths of files that exist: the shim appends to them.
		req.Stdout = filepath.Join(p.logs, engine.StdoutFile)
		if !p.terminal {
			req.Stderr = filepath.Join(p.logs, engine.StderrFile)
		}
	}
	if p.stdin {
		if err := private.Folder(r.taskDir(id)); err != nil {
			return nil, err
		}
		// A pipe that nobody writes to: the container's input stays open and empty.
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

// recall is what Prepare has remembered, or what the container's record says of a Prepare before this process.
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
	spec, err := decodeSpec(c)
	if err != nil {
		return p, err
	}
	staged, err := stagedOf(spec)
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

// specFaults are what runc says when the fault lies in what was asked for and not in the host. It gives no classes.
var specFaults = []string{
	"exec:", "exec format error", "no such file or directory", "not a directory", "is a directory", "permission denied",
	"operation not permitted", "invalid argument", "error mounting", "unknown capability", "sysctl", "error setting rlimit",
	"unable to apply apparmor", "chdir to cwd", "not a device node", "file exists",
}

// classify makes of runc's words an error class, and one line.
func classify(err error) error {
	text := err.Error()
	i := strings.Index(text, "OCI runtime")
	if i < 0 {
		return err
	}
	text = strings.TrimSpace(strings.ReplaceAll(text[i:], "\n", " "))
	for _, prefix := range []string{"OCI runtime create failed: ", "OCI runtime start failed: ", "runc create failed: ", "runc did not terminate successfully: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	for _, fault := range specFaults {
		if strings.Contains(text, fault) {
			return fmt.Errorf("%s: %w", text, errdefs.ErrInvalidArgument)
		}
	}
	return fmt.Errorf("%s: %w", text, errdefs.ErrUnknown)
}
