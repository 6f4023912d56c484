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
	// reaction is how long a service must look converged before it counts. The planner may not have
	// seen the change yet, and a change which needs no action leaves no trace.
	reaction = time.Second
	// patience is how long a state that may pass in a moment is watched before it counts: a task
	// that no node takes, or a global service without a single task.
	patience = 2 * time.Second
	// failureLimit is after how many failures in one slot waiting for a success is pointless.
	failureLimit = 3
	// shownSlots is the largest number of slots whose progress is reported one by one.
	shownSlots = 100
)

// Change names the change that is waited for. The zero Change stands for the service as it is.
type Change struct {
	// Index is the index of the log entry that made the change. Failures before it do not count.
	Index uint64
	// Revision is the revision that the change made current. 0: the one that the first look finds.
	Revision uint64
}

// State is what a Judge looks at: one service in one view.
type State struct {
	// Index is the index of the view.
	Index   uint64
	Service *swarmv1.ServiceInfo
	// Tasks are all tasks of the service, in any order. The judge does not change them.
	Tasks []*swarmv1.TaskInfo
	// Revisions are those of the tasks, by number. A task whose revision is missing counts as
	// outdated.
	Revisions map[uint64]*swarmv1.Revision
}

// Report is the result of one look.
type Report struct {
	Progress *swarmv1.ServiceProgress
	// Verdict is nil as long as nothing is certain. After a verdict no further look is needed.
	Verdict *swarmv1.ServiceVerdict
	// Again is how long to wait at most before the next look. 0: until a row of the service
	// changes.
	Again time.Duration
}

// Judge follows one service after one change. Use New to make one. It is not safe for concurrent
// use.
type Judge struct {
	change Change
	// startedAt and startIndex are those of the first look.
	startedAt  time.Time
	startIndex uint64
	// since has the conditions that held in the last look, and since when.
	since map[string]time.Time
	// failures are the tasks of the wanted template that have failed, by slot and task id.
	failures map[string]map[string]*swarmv1.TaskInfo
	template uint64 // of failures
	// cause is why the planner rolls the change back; nil: it does not.
	cause *swarmv1.ServiceVerdict
}

// New returns a Judge that has seen nothing yet.
func New(c Change) *Judge {
	return &Judge{change: c, failures: map[string]map[string]*swarmv1.TaskInfo{}}
}

// look is one look of a Judge.
type look struct {
	*Judge
	State
	now      time.Time
	update   rollout.Update
	progress *swarmv1.ServiceProgress
	slots    []slot
	held     map[string]time.Time // the next value of Judge.since
	again    time.Duration
}

// Look judges the service at time now. The times of successive calls must not decrease.
func (j *Judge) Look(now time.Time, s State) Report {
	row, current := s.Service.GetService(), s.Service.GetRevision()
	if j.startedAt.IsZero() {
		j.startedAt, j.startIndex = now, s.Index
	}
	if j.change.Revision == 0 {
		j.change.Revision = row.GetRevision()
	}
	l := &look{
		Judge: j, State: s, now: now, update: rollout.UpdateOf(row, current), held: map[string]time.Time{},
		progress: &swarmv1.ServiceProgress{ServiceName: row.GetName()},
	}
	verdict := l.judge()
	j.since = l.held
	if len(l.progress.Slots) > shownSlots {
		l.progress.Slots = nil
	}
	return Report{Progress: l.progress, Verdict: verdict, Again: l.again}
}

// judge returns the verdict, or nil.
func (l *look) judge() *swarmv1.ServiceVerdict {
	if l.Service.GetService().GetPendingDelete() {
		return &swarmv1.ServiceVerdict{Reason: fmt.Sprintf("service %s is being removed", l.name())}
	}
	l.noteRollback()
	if l.update.Template != l.template {
		l.template, l.failures = l.update.Template, map[string]map[string]*swarmv1.TaskInfo{}
	}
	l.slots = slotsOf(l.Tasks)
	if l.job() {
		return l.judgeJob()
	}
	l.rememberFailures()
	complete := l.survey()
	if l.counting() {
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
	if v != nil && l.rolledBack() {
		v.Reason = "the update was rolled back, and the previous specification does not run either: " + v.GetReason()
	}
	return v
}

func (l *look) name() string               { return l.Service.GetService().GetName() }
func (l *look) spec() *swarmv1.ServiceSpec { return l.Service.GetRevision().GetSpec() }

// heldFor returns for how long the condition has held without interruption, in the looks so far.
// Every look must ask for it again. If that is less than limit, the next look comes in time for the
// limit.
func (l *look) heldFor(condition string, limit time.Duration) time.Duration {
	return l.heldSince(condition, l.now, limit)
}

// heldSince is heldFor for a condition which, if it is new, has held since first.
func (l *look) heldSince(condition string, first time.Time, limit time.Duration) time.Duration {
	since, ok := l.since[condition]
	if !ok {
		since = first
	}
	l.held[condition] = since
	d := l.now.Sub(since)
	if left := limit - d; left > 0 && (l.again == 0 || left < l.again) {
		l.again = left
	}
	return d
}

// counting says whether the planner may not have created the first task of a global service yet.
func (l *look) counting() bool {
	return l.progress.GetDesired() == 0 && l.replicated() == nil && l.heldFor("no nodes", patience) < patience
}

func (l *look) replicated() *swarmv1.ReplicatedService { return l.spec().GetMode().GetReplicated() }

// judgeComplete judges a service whose slots all have the task that they should have. It has
// converged when nothing has changed for long enough.
func (l *look) judgeComplete() *swarmv1.ServiceVerdict {
	if l.rolledBack() {
		return l.rollbackVerdict()
	}
	var left time.Duration
	if l.progress.GetDesired() > 0 {
		left = reaction - l.heldFor("complete", reaction)
	}
	monitor := l.update.Config.GetMonitor().AsDuration()
	for _, s := range l.slots {
		if t := l.current(s); t != nil {
			left = max(left, monitor-l.runningFor(t, monitor))
		}
	}
	if n := l.progress.GetStopping(); n > 0 {
		// A node that is out of contact may never report that its task has stopped.
		limit := spec.StopGrace(l.spec().GetTaskTemplate().GetContainerSpec()) + patience
		if l.heldFor("stopping", limit) < limit && left <= 0 {
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

// runningFor returns for how long the task has been RUNNING. A status that is older than the first
// look counts from when it was written. Its time comes from another clock, so it counts at most up
// to the first look. Later ones count from the look that found them.
func (l *look) runningFor(t *swarmv1.TaskInfo, limit time.Duration) time.Duration {
	first := l.now
	if m := t.GetStatus().GetMeta(); m.GetVersion() <= l.startIndex {
		if first = m.GetUpdatedAt().AsTime(); first.After(l.startedAt) {
			first = l.startedAt
		}
	}
	return l.heldSince("running "+t.GetTask().GetId(), first, limit)
}

func (l *look) job() bool { return spec.IsJob(l.spec().GetMode()) }

// judgeJob judges a job. Tasks of earlier iterations do not count.
func (l *look) judgeJob() *swarmv1.ServiceVerdict {
	p, iteration := l.progress, l.Service.GetService().GetJobStatus().GetJobIteration()
	l.slots = slices.DeleteFunc(l.slots, func(s slot) bool { return s.tasks[0].GetTask().GetJobIteration() < iteration })
	l.rememberFailures()
	p.Job, p.Desired = true, l.Service.GetStatus().GetDesiredTasks()
	if job := l.spec().GetMode().GetReplicatedJob(); job != nil {
		p.Desired = job.GetTotalCompletions()
	} else {
		p.Desired = max(p.GetDesired(), uint64(len(l.slots)))
		if l.counting() {
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
	return l.hopeless()
}
