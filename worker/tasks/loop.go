package tasks

import (
	"context"
	"sync"

	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/health"
)

// taskLoop is the life of one task on this node: task.Step says what to do, and a goroutine does it, one action after
// another. It exists only while there is something to do.
type taskLoop struct {
	r  *Runner
	id string

	mu        sync.Mutex // guards what follows; never held across I/O
	task      *swarmv1.Task
	gone      bool          // no longer assigned
	departs   bool          // the host goes down
	heard     chan struct{} // closed and replaced when the managers say something of the task
	status    *swarmv1.TaskStatus
	action    task.Action
	busy      bool               // the goroutine exists
	ended     chan struct{}      // closed when it has ended; nil before the first
	interrupt context.CancelFunc // ends the action that goes on
	cleaned   bool
	waiting   bool // begins with the managers' first complete set
	attached  engine.Attached

	// Of the goroutine alone.
	revision *swarmv1.Revision // that the container has the limits of; nil: not known
	prober   *health.Prober    // nil: there is no health check, or it is not known
	probed   bool              // prober is known
	reason   string            // why it is stopped though it should run
	restarts int               // made out of contact
}

// outcome is how an action ended.
type outcome struct {
	event task.Event
	err   error
	pid   uint32
	exit  *engine.Exit
}

// newTaskLoop makes the loop of a task, with its last known status or none.
func newTaskLoop(r *Runner, t *swarmv1.Task, last *swarmv1.TaskStatus) *taskLoop {
	if last == nil {
		last = &swarmv1.TaskStatus{TaskId: t.Id, State: swarmv1.TaskState_ASSIGNED, Timestamp: timestamppb.Now()}
	}
	return &taskLoop{r: r, id: t.Id, task: t, status: last, heard: make(chan struct{})}
}

// desiredLocked is what the managers want; what they do not assign is to be removed.
func (t *taskLoop) desiredLocked() swarmv1.TaskState {
	switch {
	case t.gone:
		return swarmv1.TaskState_REMOVE
	case t.departs:
		return max(t.task.DesiredState, swarmv1.TaskState_SHUTDOWN)
	}
	return t.task.DesiredState
}

// want tells the loop what is assigned now; nil: the task is not.
func (t *taskLoop) want(now *swarmv1.Task) {
	t.change(func() {
		t.gone = now == nil
		if now != nil {
			t.task = now
		}
		close(t.heard)
		t.heard = make(chan struct{})
	})
}

// change is one of what is wanted of the task. A stop interrupts what goes on, and other limits the watch over what runs;
// everything else is seen by the next step.
func (t *taskLoop) change(edit func()) {
	t.mu.Lock()
	stopped, revision := task.Stops(t.desiredLocked()), t.task.Revision
	edit()
	stops := task.Stops(t.desiredLocked())
	if t.busy {
		ending := t.action == task.Stop || t.action == task.Clean // doing already what a stop would have it do
		limits := t.task.Revision != revision && (t.action == task.Watch || t.action == task.Probe)
		if stops && !stopped && !ending || limits {
			t.interrupt()
		}
		t.mu.Unlock()
		return
	}
	if task.Terminal(t.status.State) && t.cleaned {
		gone := t.gone
		t.mu.Unlock()
		if gone {
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

// beginLocked starts the goroutine.
func (t *taskLoop) beginLocked() {
	if t.busy {
		return
	}
	t.interrupt = func() {}
	if t.busy = t.r.begin(t); t.busy {
		t.ended = make(chan struct{})
	}
}

// endLocked notes that the goroutine ends.
func (t *taskLoop) endLocked() {
	t.busy = false
	close(t.ended)
}

// run performs what the table says until it says rest.
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

// step takes the outcome of the last action, moves the task on, and returns the next action, whose interruption is
// cancel. On rest the goroutine must end.
func (t *taskLoop) step(out outcome, cancel context.CancelFunc) task.Action {
	t.mu.Lock()
	was := t.status.State
	state, action, err := task.Step(was, t.desiredLocked(), out.event)
	if err != nil { // the table and the actions disagree: leave the task as it is, for the next change to look at
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
	forget := false
	if action == task.Rest {
		t.endLocked()
		forget = t.cleaned && t.gone && task.Terminal(state)
	}
	rests := action == task.Rest
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

// urgent says whether managers act on a status, or a user should see it at once.
func urgent(s *swarmv1.TaskStatus, rests bool) bool {
	return s.State >= swarmv1.TaskState_RUNNING || s.Err != "" || rests
}

// message is Docker's word for what a task is doing, or was doing when it ended.
func message(s swarmv1.TaskState) string {
	switch s {
	case swarmv1.TaskState_ACCEPTED:
		return "accepted"
	case swarmv1.TaskState_PREPARING, swarmv1.TaskState_REJECTED:
		return "preparing"
	case swarmv1.TaskState_READY:
		return "prepared"
	case swarmv1.TaskState_STARTING:
		return "starting"
	case swarmv1.TaskState_RUNNING, swarmv1.TaskState_FAILED:
		return "started"
	case swarmv1.TaskState_COMPLETE:
		return "finished"
	case swarmv1.TaskState_SHUTDOWN:
		return "shutdown"
	default:
		return ""
	}
}

// compose makes the status after an outcome; nil when it says nothing new. It is called with mu held.
func (t *taskLoop) compose(state swarmv1.TaskState, out outcome) *swarmv1.TaskStatus {
	sick := out.event == task.Sick
	if state == t.status.State && out.pid == 0 && !sick {
		return nil
	}
	now := timestamppb.Now()
	s := t.status.CloneVT()
	s.State, s.Timestamp, s.Message = state, now, message(state)
	s.Ready = state == swarmv1.TaskState_RUNNING && !sick
	s.PortStatus, s.Addresses = t.attached.Ports, localAddresses(t.attached)
	if out.pid != 0 || out.exit != nil {
		c := s.ContainerStatus.CloneVT()
		if c == nil {
			c = &swarmv1.ContainerStatus{ContainerId: t.id}
		}
		if out.pid != 0 {
			c.Pid = out.pid
		}
		if e := out.exit; e != nil {
			c.ExitCode, c.OomKilled, c.ExitCodeUnknown = int32(e.Code), e.OOM, e.CodeUnknown
			if !e.At.IsZero() {
				s.Timestamp = timestamppb.New(e.At)
			}
		}
		s.ContainerStatus = c
	}
	if state == swarmv1.TaskState_RUNNING && t.status.State != state {
		s.RunningSince = now
	}
	if sick {
		t.reason = out.err.Error()
	}
	s.Err = failure(state, t.reason, out)
	return s
}

// ails tells managers and users what keeps a task in the state that it is in.
func (t *taskLoop) ails(text string) {
	t.mu.Lock()
	s := t.status.CloneVT()
	s.Err = text
	t.status = s
	t.mu.Unlock()
	t.r.deps.Managers.Report(s, true)
}

// failure is the text for the user of what went wrong.
func failure(state swarmv1.TaskState, reason string, out outcome) string {
	switch {
	case state == swarmv1.TaskState_SHUTDOWN || state == swarmv1.TaskState_COMPLETE:
		return ""
	case reason != "":
		return reason
	case out.err != nil:
		return out.err.Error()
	case state != swarmv1.TaskState_FAILED:
		return ""
	case out.exit != nil:
		return describeExit(*out.exit)
	default:
		return "stopped"
	}
}

// now returns the task as assigned, and its revision, once that is here.
func (t *taskLoop) now() *swarmv1.Task {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.task
}

// localAddresses are the addresses that the task has on the network of its own node.
func localAddresses(a engine.Attached) []string {
	if a.Local == nil {
		return a.Addresses
	}
	return a.Local
}

// over says whether the task's container is gone for good.
func (t *taskLoop) over() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cleaned && task.Terminal(t.status.State)
}
