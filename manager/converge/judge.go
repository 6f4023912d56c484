package converge

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/internal/rollout"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// reaction is how long a service must look converged before the verdict is that it has
	// converged. The planner may not have seen the change yet, and for a change that needs no
	// action the rows do not show whether the planner has seen it.
	reaction = time.Second
	// confirmAfter is how long a state that may be transient must last before there is a verdict on
	// it: a task that no node takes, or a global service without a single task.
	confirmAfter = 2 * time.Second
	// failureLimit is the number of failures in one slot after which the verdict is that its tasks
	// will go on failing.
	failureLimit = 3
	// shownSlots is the largest number of slots whose progress is reported one by one.
	shownSlots = 100
)

// Change names the change that the Judge follows.
type Change struct {
	// Index is the index of the log entry that made the change. A failure that was reported before
	// that entry does not count. If Index is 0, all failures of tasks of the wanted template count.
	Index uint64
	// Revision is the revision that the change made current. If Revision is 0, the Judge takes the
	// revision that is current in the first look.
	Revision uint64
}

// State is the input of a look: one service in one view.
type State struct {
	// ViewIndex is the log index of the view.
	ViewIndex uint64
	Service   *swarmv1.ServiceInfo
	// Tasks are all tasks of the service, in any order. The judge does not change them.
	Tasks []*swarmv1.TaskInfo
	// Revisions are those of the tasks, by number. A task whose revision is missing counts as
	// outdated.
	Revisions map[uint64]*swarmv1.Revision
}

// Report is the result of one look.
type Report struct {
	Progress *swarmv1.ServiceProgress
	// Verdict is nil until the Judge is certain. After a verdict no further look is needed.
	Verdict *swarmv1.ServiceVerdict
	// Again is how long to wait at most before the next look. If Again is 0, the next look is
	// needed when a row of the service has changed.
	Again time.Duration
}

// Judge follows one service after one change. Use New to make one. It is not safe for concurrent
// use.
type Judge struct {
	change Change
	// isUpdate is set if the change is a new revision of a service that existed.
	isUpdate bool
	// firstLook and firstIndex are the time of the first look and the log index of its view.
	firstLook  time.Time
	firstIndex uint64
	// since has the conditions that held in the last look, each with the time since which it holds.
	since map[string]time.Time
	// template is the wanted template of the last look. failures are the failed tasks with this
	// template, by slot and task id.
	failures map[string]map[string]*swarmv1.TaskInfo
	template uint64
	// rollbackCause is why the planner rolls the change back. It is nil if the planner does not.
	rollbackCause *swarmv1.ServiceVerdict
}

// New returns a Judge that has seen nothing yet.
func New(c Change) *Judge {
	return &Judge{change: c, isUpdate: c.Revision != 0, failures: map[string]map[string]*swarmv1.TaskInfo{}}
}

// look is one look of a Judge.
type look struct {
	State
	memory   *Judge // what remains from look to look
	now      time.Time
	update   rollout.Update
	progress *swarmv1.ServiceProgress
	slots    []slot
	shown    int                  // how often show was called
	holding  map[string]time.Time // the next value of Judge.since
	again    time.Duration
}

// Look judges the service at time now. The times of successive calls must not decrease.
func (j *Judge) Look(now time.Time, s State) Report {
	row, current := s.Service.GetService(), s.Service.GetRevision()
	if j.firstLook.IsZero() {
		j.firstLook, j.firstIndex = now, s.ViewIndex
	}
	if j.change.Revision == 0 {
		j.change.Revision = row.GetRevision()
	}
	l := &look{
		State: s, memory: j, now: now, update: rollout.UpdateOf(row, current), holding: map[string]time.Time{},
		progress: &swarmv1.ServiceProgress{ServiceName: row.GetName()},
	}
	verdict := l.judge()
	j.since = l.holding
	return Report{Progress: l.progress, Verdict: verdict, Again: l.again}
}

// judge returns the verdict, or nil.
func (l *look) judge() *swarmv1.ServiceVerdict {
	if l.Service.GetService().GetPendingDelete() {
		return &swarmv1.ServiceVerdict{Reason: fmt.Sprintf("service %s is being removed", l.name())}
	}
	l.rememberRollback()
	if l.update.Template != l.memory.template {
		l.memory.template, l.memory.failures = l.update.Template, map[string]map[string]*swarmv1.TaskInfo{}
	}
	l.slots = slotsOf(l.Tasks)
	if l.job() {
		return l.judgeJob()
	}
	l.rememberFailures()
	complete := l.survey()
	if l.awaitFirstTask() {
		return nil
	}
	l.progress.Note = l.updateNote()
	if v := l.pausedVerdict(); v != nil {
		return v
	}
	if complete {
		return l.judgeComplete()
	}
	v := l.hopeless()
	if v != nil && l.rollbackEnded() {
		v.Reason = "the update was rolled back, and the previous specification does not run either: " + v.GetReason()
	}
	return v
}

func (l *look) name() string               { return l.Service.GetService().GetName() }
func (l *look) spec() *swarmv1.ServiceSpec { return l.Service.GetRevision().GetSpec() }

// track records that a condition holds in this look. It returns how much longer the condition must
// hold until it has held for the time limit: 0 if it has. If a look
// does not track a condition, the condition counts as not held, and the next look that tracks it
// begins to count anew. If track returns more than 0, the next look comes after that time at the
// latest.
func (l *look) track(condition string, limit time.Duration) time.Duration {
	return l.trackSince(condition, l.now, limit)
}

// trackSince is track for a condition that may have begun before the first look that finds it. In
// that look the condition counts from start.
func (l *look) trackSince(condition string, start time.Time, limit time.Duration) time.Duration {
	since, ok := l.memory.since[condition]
	if !ok {
		since = start
	}
	l.holding[condition] = since
	left := max(limit-l.now.Sub(since), 0)
	if left > 0 && (l.again == 0 || left < l.again) {
		l.again = left
	}
	return left
}

// awaitFirstTask reports whether the service is global, has no task, and must be looked at again
// before that counts: the planner may not have created the first task yet.
func (l *look) awaitFirstTask() bool {
	if l.progress.GetDesired() > 0 || l.replicated() != nil {
		return false
	}
	return l.track("no tasks", confirmAfter) > 0
}

func (l *look) replicated() *swarmv1.ReplicatedService { return l.spec().GetMode().GetReplicated() }

// judgeComplete judges a service whose slots all have the task that they should have. It has
// converged when nothing has changed for long enough.
func (l *look) judgeComplete() *swarmv1.ServiceVerdict {
	if l.rollbackEnded() {
		return l.rollbackVerdict()
	}
	// If no task is wanted, the service is complete only when the planner has stopped the tasks
	// that it had. So the planner has seen the change already.
	var left time.Duration
	if l.progress.GetDesired() > 0 {
		left = l.track("complete", reaction)
	}
	monitor := l.update.Config.GetMonitor().AsDuration()
	for _, s := range l.slots {
		if t := l.current(s); t != nil {
			left = max(left, l.trackRunning(t, monitor))
		}
	}
	if n := l.progress.GetStopping(); n > 0 {
		// Do not wait longer than the limit: a node that is out of contact may never report that
		// its task has stopped.
		limit := spec.StopGrace(l.spec().GetTaskTemplate().GetContainerSpec()) + confirmAfter
		if l.track("stopping", limit) > 0 && left == 0 { // The note is shown after the countdown.
			l.progress.Note = fmt.Sprintf("%d task%s still to stop", n, plural(n))
			return nil
		}
	}
	switch {
	case left > 0:
		l.progress.StableIn = durationpb.New(left)
		l.again = min(left, time.Second) // clients show a countdown
		return nil
	case l.update.Active():
		return nil // The planner decides when an update has completed.
	}
	return &swarmv1.ServiceVerdict{Converged: true}
}

// trackRunning returns how much longer the task must be RUNNING until it has been so for the time
// limit. The time counts from the first look that finds the task RUNNING. If that is the first look
// of all, the task may have been RUNNING before. Then the time counts from when the status was
// written, but never from after the first look: the clock of the manager that wrote the status may
// be ahead.
func (l *look) trackRunning(t *swarmv1.TaskInfo, limit time.Duration) time.Duration {
	start := l.now
	if m := t.GetStatus().GetMeta(); m.GetVersion() <= l.memory.firstIndex {
		start = m.GetUpdatedAt().AsTime()
		if start.After(l.memory.firstLook) {
			start = l.memory.firstLook
		}
	}
	return l.trackSince("running "+t.GetTask().GetId(), start, limit)
}

func (l *look) job() bool { return spec.IsJob(l.spec().GetMode()) }

// judgeJob judges a job. Tasks of earlier iterations do not count. A new scheduled job, or a new
// revision of one, has converged at once: it takes effect with the next run.
func (l *look) judgeJob() *swarmv1.ServiceVerdict {
	status := l.Service.GetService().GetJobStatus()
	if spec.IsScheduled(l.spec()) && (status.GetJobIteration() == 0 || l.memory.isUpdate) {
		return &swarmv1.ServiceVerdict{Converged: true}
	}
	p, iteration := l.progress, status.GetJobIteration()
	l.slots = slices.DeleteFunc(l.slots, func(s slot) bool { return s.tasks[0].GetTask().GetJobIteration() < iteration })
	l.rememberFailures()
	p.Job = true
	if job := l.spec().GetMode().GetReplicatedJob(); job != nil {
		p.Desired = job.GetTotalCompletions()
	} else {
		st := l.Service.GetStatus()
		p.Desired = max(st.GetDesiredTasks()+st.GetCompletedTasks(), uint64(len(l.slots)))
		if l.awaitFirstTask() {
			return nil
		}
	}
	for i, s := range l.slots {
		t := s.tasks[0]
		state := t.GetStatus().GetState()
		if state == swarmv1.TaskState_COMPLETE {
			p.Running++
		}
		l.show(&swarmv1.SlotProgress{Label: l.label(i+1, t), State: state, Detail: explainTask(t)})
	}
	if p.GetDesired() > 0 && p.GetRunning() >= p.GetDesired() {
		return &swarmv1.ServiceVerdict{Converged: true}
	}
	if v := l.hopeless(); v != nil || !status.GetEnded() {
		return v
	}
	return &swarmv1.ServiceVerdict{
		Reason: fmt.Sprintf("the run has failed: %d of %d tasks completed", p.GetRunning(), p.GetDesired()),
		Hint:   fmt.Sprintf("see `swarm service runs %s`, and `swarm service logs %s`", l.name(), l.name()),
	}
}
