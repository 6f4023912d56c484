package tasks

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"swarm/internal/pause"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/retry"
	"swarm/worker/state"
)

// adopt continues with the tasks that an earlier process of this node left. It watches the
// containers that run, reports those that ended while no process ran, and does not start these
// again. A task that had not been started waits for the managers' first complete set of
// assignments, because the managers may have given its slot to another node while no process ran.
func (r *Runner) adopt(ctx context.Context, saved *state.Saved) error {
	if err := r.restoreNetwork(ctx, saved); err != nil {
		return err
	}
	for _, a := range saved.Objects {
		if t := a.GetTask(); t != nil {
			r.adoptTask(t, saved)
		}
	}
	// A task with a status and no assignment was being removed when the earlier process ended. A
	// row with its id is enough to remove it. setAssigned(nil) then says that it is not assigned.
	for id, status := range saved.Statuses {
		if r.task(id) == nil {
			r.adoptTask(&swarmv1.Task{Id: id, NodeId: r.cfg.NodeID, DesiredState: swarmv1.TaskState_REMOVE}, &state.Saved{
				Statuses: map[string]*swarmv1.TaskStatus{id: status}, Attached: saved.Attached,
			})
			r.task(id).setAssigned(nil)
		}
	}
	return nil
}

// adoptTask makes the loop of a task from its saved state, and begins the loop unless the task has
// to wait for the managers.
func (r *Runner) adoptTask(t *swarmv1.Task, saved *state.Saved) {
	status := saved.Statuses[t.Id]
	loop := newTaskLoop(r, t, status)
	loop.attached = saved.Attached[t.Id]
	r.mu.Lock()
	r.tasks[t.Id] = loop
	r.mu.Unlock()
	if saved.Unsent[t.Id] {
		r.deps.Managers.Resend(status)
	}
	loop.mu.Lock()
	defer loop.mu.Unlock()
	loop.cleaned = saved.Cleaned[t.Id] && task.Terminal(loop.status.State)
	if loop.cleaned {
		return
	}
	loop.waiting = loop.status.State < swarmv1.TaskState_STARTING && !task.Stops(t.DesiredState)
	if !loop.waiting {
		loop.beginLocked()
	}
}

// restoreNetwork gives the network the attachments of all tasks. No task can run without its
// attachment, so restoreNetwork tries until it succeeds or ctx ends.
func (r *Runner) restoreNetwork(ctx context.Context, saved *state.Saved) error {
	var keep []engine.Attachment
	for id, held := range saved.Attached {
		a := engine.Attachment{TaskID: id}
		if o := r.deps.Objects.Get(swarmv1.AssignmentRef_TASK, id); o != nil {
			if rev := r.deps.Objects.Revision(o.GetTask()); rev != nil {
				a = r.attachment(o.GetTask(), rev)
			}
		}
		a.Held = held
		keep = append(keep, a)
	}
	for try := 0; ; try++ {
		err := r.deps.Network.Restore(ctx, keep)
		if err == nil {
			return nil
		}
		r.deps.Log.Error("restore networks", "err", err)
		if pause.For(ctx, retry.Backoff(try, 100*time.Millisecond, 5*time.Second)) != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}

// afterFirstSet waits for the managers' first complete set of assignments. Then it begins the tasks
// that wait for this set, and removes the containers that belong to no task.
func (r *Runner) afterFirstSet(ctx context.Context) {
	select {
	case <-r.deps.Managers.Synced():
	case <-ctx.Done():
		return
	}
	r.mu.Lock()
	loops := slices.Collect(maps.Values(r.tasks))
	r.mu.Unlock()
	if r.deps.Logs != nil {
		ids := make([]string, len(loops))
		for i, t := range loops {
			ids[i] = t.id
		}
		r.deps.Logs.Keep(ids)
	}
	for _, t := range loops {
		t.mu.Lock()
		if t.waiting {
			t.waiting = false
			t.beginLocked()
		}
		t.mu.Unlock()
	}
	retry.Until(ctx, r.deps.Log, "list containers", func() error {
		found, err := r.deps.Runtime.List(ctx)
		if err != nil {
			return err
		}
		for _, f := range found {
			if r.task(f.TaskID) == nil {
				r.deps.Log.Info("removing a container that belongs to no task", "task", f.TaskID, "service", f.ServiceID)
				retry.Until(ctx, r.deps.Log, "remove container", func() error { return r.Remove(ctx, f.TaskID) })
			}
		}
		return nil
	})
	if err := r.removeFiles(); err != nil {
		r.deps.Log.Warn("files of tasks that are gone remain", "err", err)
	}
}

// removeFiles removes the small files of tasks that this node does not have. A daemon that was
// killed before it had created a task's container, or after it had removed it, has left them.
func (r *Runner) removeFiles() error {
	entries, err := os.ReadDir(r.cfg.Dir)
	for _, e := range entries {
		if r.task(e.Name()) == nil {
			err = errors.Join(err, os.RemoveAll(filepath.Join(r.cfg.Dir, e.Name())))
		}
	}
	return err
}
