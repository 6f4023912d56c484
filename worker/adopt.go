package worker

import (
	"context"
	"errors"
	"time"

	"swarm/internal/pause"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/retry"
	"swarm/worker/state"
)

// adopt continues what a former process began. A container that runs is watched on, its exit meanwhile is reported, and
// nothing that ran is started again. A task that had not been started waits for the managers: while this daemon was away
// they may have given its place to another node.
func (w *Worker) adopt(ctx context.Context) error {
	mem := w.mem
	w.mem = nil
	w.tellTopology(w.objects.Restore(mem.Objects))
	if err := w.restoreNetwork(ctx, mem); err != nil {
		return err
	}
	for _, a := range mem.Objects {
		if t := a.GetTask(); t != nil {
			w.adoptTask(t, mem)
		}
	}
	// What is not assigned any more, and was not cleaned up to the end.
	for id, status := range mem.Statuses {
		if w.task(id) == nil {
			w.adoptTask(&swarmv1.Task{Id: id, NodeId: w.cfg.NodeID, DesiredState: swarmv1.TaskState_REMOVE}, &state.Saved{
				Statuses: map[string]*swarmv1.TaskStatus{id: status}, Attached: mem.Attached,
			})
			w.task(id).want(nil)
		}
	}
	return nil
}

func (w *Worker) adoptTask(t *swarmv1.Task, mem *state.Saved) {
	status := mem.Statuses[t.Id]
	loop := newTaskLoop(w, t, status)
	loop.attached = mem.Attached[t.Id]
	w.mu.Lock()
	w.tasks[t.Id] = loop
	w.mu.Unlock()
	if mem.Unsent[t.Id] {
		w.managers.Resend(status)
	}
	loop.mu.Lock()
	defer loop.mu.Unlock()
	if loop.cleaned = mem.Cleaned[t.Id] && task.Terminal(loop.status.State); loop.cleaned {
		return
	}
	loop.waiting = loop.status.State < swarmv1.TaskState_STARTING && !task.Stops(t.DesiredState)
	if !loop.waiting {
		loop.beginLocked()
	}
}

// restoreNetwork hands the attachments of all tasks back. Without it nothing can go on, so it is tried until it works.
func (w *Worker) restoreNetwork(ctx context.Context, mem *state.Saved) error {
	var keep []engine.Attachment
	for id, held := range mem.Attached {
		a := engine.Attachment{TaskID: id}
		if o := w.objects.Get(swarmv1.AssignmentRef_TASK, id); o != nil {
			if rev := w.objects.Revision(o.GetTask()); rev != nil {
				a = w.attachment(o.GetTask(), rev)
			}
		}
		a.Held = held
		keep = append(keep, a)
	}
	for try := 0; ; try++ {
		err := w.deps.Network.Restore(ctx, keep)
		if err == nil {
			return nil
		}
		w.deps.Log.Error("restore networks", "err", err)
		if pause.For(ctx, retry.Backoff(try, 100*time.Millisecond, 5*time.Second)) != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}

// sweep runs once, after the first complete set: tasks that waited for it go on, and containers that belong to no task
// are removed.
func (w *Worker) sweep(ctx context.Context) error {
	select {
	case <-w.managers.Synced():
	case <-ctx.Done():
		return nil
	}
	w.mu.Lock()
	var waiting []*taskLoop
	for _, t := range w.tasks {
		waiting = append(waiting, t)
	}
	w.mu.Unlock()
	if w.deps.Logs != nil {
		ids := make([]string, len(waiting))
		for i, t := range waiting {
			ids[i] = t.id
		}
		w.deps.Logs.Keep(ids)
	}
	for _, t := range waiting {
		t.mu.Lock()
		if t.waiting {
			t.waiting = false
			t.beginLocked()
		}
		t.mu.Unlock()
	}
	retry.Until(ctx, w.deps.Log, "list containers", func() error {
		found, err := w.deps.Runtime.List(ctx)
		if err != nil {
			return err
		}
		for _, f := range found {
			if w.task(f.TaskID) == nil {
				w.deps.Log.Info("removing a container that belongs to no task", "task", f.TaskID, "service", f.ServiceID)
				retry.Until(ctx, w.deps.Log, "remove container", func() error { return w.scrub(ctx, f.TaskID) })
			}
		}
		return nil
	})
	return nil
}
