//go:build linux

package containerd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"

	"swarm/containerd/exit"
	"swarm/containerd/layout"
	"swarm/internal/pause"
	"swarm/worker/engine"
)

// retryMin and retryMax bound the pause between two calls while containerd does not answer.
const (
	retryMin = 20 * time.Millisecond
	retryMax = 5 * time.Second
)

// Wait blocks until a started container has ended, also through restarts of containerd, and returns
// how it ended. ErrNotFound: there is no such container. ErrFailedPrecondition: the container was
// not started.
func (r *Runtime) Wait(ctx context.Context, taskID string) (engine.Exit, error) {
	if err := validID(taskID); err != nil {
		return engine.Exit{}, err
	}
	e, err := r.wait(namespaced(ctx), taskID)
	if err != nil {
		return engine.Exit{}, fmt.Errorf("wait for container %s: %w", taskID, engine.Away(err))
	}
	return e, nil
}

func (r *Runtime) wait(ctx context.Context, id string) (engine.Exit, error) {
	rest := retryMin
	for {
		resp, err := r.client.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: id}, grpc.WaitForReady(true))
		if err == nil {
			rec, _ := r.readExit(id)
			return engine.Exit{Code: int(resp.ExitStatus), At: resp.ExitedAt.AsTime(), OOM: r.oom(ctx, id), Fenced: rec.Fenced}, nil
		}
		if ctx.Err() != nil {
			return engine.Exit{}, ctx.Err()
		}
		err = errgrpc.ToNative(err)
		if errdefs.IsNotFound(err) {
			return r.lost(ctx, id)
		}
		// containerd restarts, or the shim has died. After a short time a call succeeds or returns
		// ErrNotFound.
		r.log.DebugContext(ctx, "wait for a container failed, trying again", "task", id, "err", err, "retry", rest)
		if err := pause.For(ctx, rest/2+rand.N(rest)); err != nil {
			return engine.Exit{}, err
		}
		rest = min(2*rest, retryMax)
	}
}

// lost returns the exit of a container for which containerd has no task.
func (r *Runtime) lost(ctx context.Context, id string) (engine.Exit, error) {
	unknown := engine.Exit{Code: -1, At: time.Now(), CodeUnknown: true}
	if rec, ok := r.readExit(id); ok {
		if rec.ShimLost {
			unknown.At = rec.ExitedAt
			return unknown, nil
		}
		return engine.Exit{Code: int(rec.Status), At: rec.ExitedAt, OOM: rec.OOM, Fenced: rec.Fenced}, nil
	}
	if r.started(id) {
		return unknown, nil
	}
	if _, err := r.client.ContainerService().Get(ctx, id); err != nil {
		return engine.Exit{}, err
	}
	return engine.Exit{}, fmt.Errorf("it has not been started: %w", errdefs.ErrFailedPrecondition)
}

// readExit reads the exit record that the container's shim has written. It returns false if there
// is none.
func (r *Runtime) readExit(id string) (exit.Record, bool) {
	if r.cfg.Exits == "" {
		return exit.Record{}, false
	}
	rec, err := r.exits.Read(layout.Namespace, id)
	if err != nil && !errdefs.IsNotFound(err) {
		r.log.Warn("exit record cannot be read", "task", id, "err", err)
	}
	return rec, err == nil
}

// oom reports whether the kernel killed a process of the container for lack of memory. It reads the
// exit record, or if the shims write none, the cgroup, which exists until the task is deleted.
func (r *Runtime) oom(ctx context.Context, id string) bool {
	if rec, ok := r.readExit(id); ok {
		return rec.OOM
	}
	resp, err := r.client.TaskService().Metrics(ctx, &tasks.MetricsRequest{Filters: []string{"id==" + id}})
	if err != nil || len(resp.Metrics) == 0 {
		return false
	}
	m, err := typeurl.UnmarshalAny(resp.Metrics[0].Data)
	if err != nil {
		return false
	}
	switch s := m.(type) {
	case *cgroup1.Metrics:
		return s.GetMemoryOomControl().GetOomKill() > 0
	case *cgroup2.Metrics:
		return s.GetMemoryEvents().GetOomKill() > 0
	}
	return false
}

// running returns the process ids of the containers that run, by task.
func (r *Runtime) running(ctx context.Context) (map[string]uint32, error) {
	resp, err := r.client.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	pids := make(map[string]uint32, len(resp.Tasks))
	for _, t := range resp.Tasks {
		switch t.Status {
		case tasktypes.Status_RUNNING, tasktypes.Status_PAUSED, tasktypes.Status_PAUSING:
			pids[t.ID] = t.Pid
		}
	}
	return pids, nil
}
