package tasks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"swarm/internal/spec"
	"swarm/internal/task"
	"swarm/worker/assignment"
)

// stop drains the task and stops its container. It repeats a stop that failed until ctx ends. The
// outcome says how the container ended.
func (t *taskLoop) stop(ctx context.Context) outcome {
	if t.revision == nil {
		t.revision = t.r.deps.Objects.Revision(t.now())
	}
	asked := assignment.ContainerSpec(t.revision)
	t.drain(ctx)
	t.r.deps.Log.Debug("stop", "task", t.id)
	if !t.untilDone(ctx, "stop container", func() error { return t.r.deps.Runtime.Stop(ctx, t.id, asked.GetStopSignal(), spec.StopGrace(asked)) }) {
		return outcome{event: task.Look, err: ctx.Err()}
	}
	wctx, cancel := context.WithTimeout(ctx, exitTimeout)
	defer cancel()
	out := outcome{event: task.Stopped}
	if exit, err := t.r.deps.Runtime.Wait(wctx, t.id); err == nil {
		out.exit = &exit
	}
	return out
}

// clean removes everything of the task but its log. It repeats a removal that failed until ctx
// ends.
func (t *taskLoop) clean(ctx context.Context) outcome {
	if !t.untilDone(ctx, "remove container", func() error { return t.r.Remove(ctx, t.id) }) {
		return outcome{event: task.Look, err: ctx.Err()}
	}
	return outcome{event: task.Cleaned}
}

// Remove removes a task's container, network attachment and files, but not its log. It is
// idempotent and needs no loop: storage calls it for containers that belong to no task.
func (r *Runner) Remove(ctx context.Context, id string) error {
	if err := r.withPermit(ctx, func() error { return r.deps.Runtime.Remove(ctx, id) }); err != nil {
		return fmt.Errorf("remove container of task %s: %w", id, err)
	}
	if err := r.deps.Network.Detach(ctx, id); err != nil {
		return fmt.Errorf("detach task %s: %w", id, err)
	}
	r.deps.State.ForgetAttached(id)
	if r.deps.Logs != nil {
		r.deps.Logs.Finish(id)
	}
	return os.RemoveAll(filepath.Join(r.cfg.Dir, id))
}
