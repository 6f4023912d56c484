package tasks

import (
	"context"
	"sync"

	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/broadcast"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/health"
)

// taskLoop has one task of this node. task.Step says what to do, and a goroutine does it, one
// action after another. The goroutine exists only while there is something to do.
type taskLoop struct {
	r  *Runner
	id string

	mu         sync.Mutex // guards what follows; never held across I/O
	task       *swarmv1.Task
	unassigned bool             // the managers do not assign the task any more
	departing  bool             // the host goes down, so the task stops before the managers ask for it
	changed    broadcast.Signal // sent when the managers change the task
	status     *swarmv1.TaskStatus
	action     task.Action
	busy       bool               // the goroutine exists
	ended      chan struct{}      // closed when the goroutine has ended; nil before the first one
	interrupt  context.CancelFunc // ends the current action
	cleaned    bool               // nothing of the task is left to remove
	waiting    bool               // an adopted task that was not started: it waits for the managers' first complete set
	attached   engine.Attached

	// Only the goroutine uses these.
	revision    *swarmv1.Revision // the one last used for the container; nil: an earlier daemon created the container
	prober      *health.Prober    // nil: there is no health check, or it is not known
	proberKnown bool              // whether prober is known
	reason      string            // why the task is stopped although the managers want it to run
	restarts    int               // how often it was started again out of contact
}

// outcome says how an action ended.
type outcome struct {
	event task.Event
	err   error
	pid   uint32
	exit  *engine.Exit
}

// newTaskLoop returns the loop of a task. last is the task's last known status, or nil.
func newTaskLoop(r *Runner, t *swarmv1.Task, last *swarmv1.TaskStatus) *taskLoop {
	if last == nil {
		last = &swarmv1.TaskStatus{TaskId: t.Id, State: swarmv1.TaskState_ASSIGNED, Timestamp: timestamppb.Now()}
	}
	return &taskLoop{r: r, id: t.Id, task: t, status: last}
}

// desiredLocked returns the state that the task should reach. A task that is not assigned any more
// is to be removed.
func (t *taskLoop) desiredLocked() swarmv1.TaskState {
	switch {
	case t.unassigned:
		return swarmv1.TaskState_REMOVE
	case t.departing:
		return max(t.task.DesiredState, swarmv1.TaskState_SHUTDOWN)
	}
	return t.task.DesiredState
}

// setAssigned replaces the task by the one that the managers assign now. Nil means that they do not
// assign the task any more.
func (t *taskLoop) setAssigned(assigned *swarmv1.Task) {
	t.change(func() {
		t.unassigned = assigned == nil
		if assigned != nil {
			t.task = assigned
		}
		t.changed.Broadcast()
	})
}

// change calls edit, which changes the desired state or the revision of the task. Then:
//
//   - If the goroutine exists, a stop interrupts any action but Stop and Clean. New limits, the
//     only difference between revisions of a task, interrupt Probe and Watch. Any other change has
//     its effect in the next step.
//   - If the task has ended and is cleaned up, the Runner forgets it if it is not assigned any
//     more.
//   - If the task must wait for the managers' first complete set, afterFirstSet begins it later.
//   - In all other cases the goroutine begins.
func (t *taskLoop) change(edit func()) {
	t.mu.Lock()
	stopped, revision := task.Stops(t.desiredLocked()), t.task.Revision // before the edit
	edit()
	stops := task.Stops(t.desiredLocked())
	if t.busy {
		stopping := t.action == task.Stop || t.action == task.Clean // after an interrupt, the table would choose the same action again
		limits := t.task.Revision != revision && (t.action == task.Watch || t.action == task.Probe)
		if stops && !stopped && !stopping || limits {
			t.interrupt()
		}
		t.mu.Unlock()
		return
	}
	if task.Terminal(t.status.State) && t.cleaned {
		unassigned := t.unassigned
		t.mu.Unlock()
		if unassigned {
			t.r.forget(t)
		}
		return
	}
	if t.waiting && !stops && !t.r.deps.Managers.IsSynced() {
		t.mu.Unlock()
		return
	}
	t.waiting = false
	t.beginLocked()
	t.mu.Unlock()
}

// beginLocked starts the goroutine, unless it exists already or Run of the Runner has ended.
func (t *taskLoop) beginLocked() {
	if t.busy {
		return
	}
	t.interrupt = func() {}
	t.busy = t.r.begin(t)
	if t.busy {
		t.ended = make(chan struct{})
	}
}

// endLocked records that the goroutine ends.
func (t *taskLoop) endLocked() {
	t.busy = false
	close(t.ended)
}

// run performs the actions that the table asks for, until it asks for Rest or ctx ends.
func (t *taskLoop) run(ctx context.Context) {
	out := outcome{event: task.Look}
	for ctx.Err() == nil {
		actx, cancel := context.WithCancel(ctx)
		action := t.step(out, cancel)
		if action == task.Rest {
			cancel()
			return
		}
		out = t.perform(actx, action)
		cancel()
	}
	t.mu.Lock()
	t.endLocked()
	t.mu.Unlock()
}

// step passes the outcome of the last action to the table, moves the task to its next state,
// reports the state, and returns the next action. cancel is the function that will interrupt that
// action. If the action is Rest, step has recorded the end of the goroutine, which must end then.
func (t *taskLoop) step(out outcome, cancel context.CancelFunc) task.Action {
	t.mu.Lock()
	was := t.status.State
	state, action, err := task.Step(was, t.desiredLocked(), out.event)
	if err != nil { // The table does not know the event. The task stays as it is until the next change.
		t.r.deps.Log.Error("task step", "task", t.id, "err", err)
	}
	t.action, t.interrupt = action, cancel
	next := t.compose(state, out)
	if next != nil {
		t.status = next
	}
	if out.event == task.Cleaned {
		t.cleaned = true
	}
	rests := action == task.Rest
	if rests {
		t.endLocked()
	}
	forget := rests && t.cleaned && t.unassigned && task.Terminal(state)
	t.mu.Unlock()

	if out.event == task.Cleaned {
		t.r.deps.State.SetCleaned(t.id)
	}
	if next != nil {
		if state != was {
			t.r.deps.Log.Debug("task", "task", t.id, "state", state.String(), "err", next.Err)
		}
		t.r.deps.Managers.Report(next, urgent(next, rests))
	}
	if forget {
		t.r.forget(t)
	}
	return action
}

// now returns the task as it is assigned now.
func (t *taskLoop) now() *swarmv1.Task {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.task
}

// isOver reports whether the task's container is gone and no other will come.
func (t *taskLoop) isOver() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cleaned && task.Terminal(t.status.State)
}
