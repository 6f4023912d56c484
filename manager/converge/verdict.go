package converge

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"swarm/internal/explain"
	swarmv1 "swarm/proto/swarm/v1"
)

// rollbackEnded reports whether the planner has rolled the change back completely. If the change is
// itself a rollback, which a user has asked for, rollbackEnded returns false.
func (l *look) rollbackEnded() bool {
	return l.update.State == swarmv1.UpdateStatus_ROLLBACK_COMPLETED && l.rollbackBegan()
}

// rollbackBegan reports whether the planner has begun to roll the change back: the current revision
// is no longer the revision of the change.
func (l *look) rollbackBegan() bool {
	return l.update.IsRollback() && l.Service.GetService().GetRevision() != l.memory.change.Revision
}

// rememberRollback stores in memory.rollbackCause why the planner rolls the change back. The update
// status no longer has the reason when the rollback has completed. judge calls rememberRollback
// before it clears memory.failures, which has the failures of the change.
func (l *look) rememberRollback() {
	if l.memory.rollbackCause != nil || !l.rollbackBegan() {
		return
	}
	l.memory.rollbackCause = &swarmv1.ServiceVerdict{Reason: "update rolled back"}
	if l.update.State == swarmv1.UpdateStatus_ROLLBACK_STARTED {
		l.memory.rollbackCause.Reason = l.Service.GetService().GetUpdateStatus().GetMessage()
	}
	if t := l.firstFailure(); t != nil {
		blame(l.memory.rollbackCause, t)
		return
	}
	// No look has seen a failed task: it failed before the first look, or after the last one.
	for _, t := range l.Tasks {
		if t.GetTask().GetRevision() == l.memory.change.Revision && l.rows(t).Failure() {
			blame(l.memory.rollbackCause, t)
			return
		}
	}
}

// firstFailure returns the newest failed task of the first slot that has failures since the change.
// It returns nil if no slot has any.
func (l *look) firstFailure() *swarmv1.TaskInfo {
	if len(l.memory.failures) == 0 {
		return nil
	}
	return newestFailure(l.memory.failures[slices.Min(slices.Collect(maps.Keys(l.memory.failures)))])
}

// rollbackVerdict is the verdict on a change that the planner has rolled back.
func (l *look) rollbackVerdict() *swarmv1.ServiceVerdict {
	v := l.memory.rollbackCause.CloneVT()
	v.Outlook = fmt.Sprintf("service %s runs its previous specification again", l.name())
	return v
}

func (l *look) updateNote() string {
	if l.update.State != swarmv1.UpdateStatus_ROLLBACK_STARTED {
		return ""
	}
	if msg := l.Service.GetService().GetUpdateStatus().GetMessage(); msg != "" {
		return "rollback: " + msg
	}
	return "rollback: the previous specification is being restored"
}

// pausedVerdict is the verdict on an update or rollback that the planner has paused, or nil.
func (l *look) pausedVerdict() *swarmv1.ServiceVerdict {
	if !l.update.Paused() {
		return nil
	}
	name, v := l.name(), &swarmv1.ServiceVerdict{}
	if l.update.IsRollback() {
		v.Reason = "rollback paused"
		v.Outlook = fmt.Sprintf("tasks of service %s that were not rolled back yet keep the newer specification: go on with `swarm service update`", name)
	} else {
		v.Reason = "update paused"
		v.Outlook = fmt.Sprintf("tasks of service %s that were not updated yet keep the previous specification: go on with `swarm service update`, or back with `swarm service rollback %s`", name, name)
	}
	// A longer message of the planner begins with the same words, which need not be repeated.
	if why := l.Service.GetService().GetUpdateStatus().GetMessage(); strings.HasPrefix(why, v.GetReason()) {
		v.Reason = why
	} else if why != "" {
		v.Reason += ": " + why
	}
	if why := l.Service.GetEndpoint().GetUnmet(); why != "" {
		v.Reason += "; it does not have its former ports and addresses yet: " + why
	}
	if t := l.firstFailure(); t != nil {
		blame(v, t)
	}
	return v
}

// blame adds the task that failed to a verdict about an update.
func blame(v *swarmv1.ServiceVerdict, t *swarmv1.TaskInfo) {
	v.Task, v.Hint = t, explain.ImageHint(t.GetStatus().GetErr(), t.GetImage())
	v.Reason += fmt.Sprintf("; task %s: %s", explain.TaskName(t.GetServiceName(), t.GetTask()), explain.Failure(t.GetStatus()))
}

// hopeless returns the verdict on a service that will not converge without another change, or nil.
func (l *look) hopeless() *swarmv1.ServiceVerdict {
	var unplaced []*swarmv1.TaskInfo
	starting := false
	for _, s := range l.slots {
		t, failures := l.current(s), l.memory.failures[s.key]
		if !l.update.Active() { // The planner decides whether an update with failures goes on.
			if t != nil && len(failures) >= failureLimit {
				return l.taskVerdict(newestFailure(failures), fmt.Sprintf("failed %d times", len(failures)), true)
			}
			if done, intended := l.ended(s); done != nil && !intended {
				what := "failed and is not restarted"
				if done.GetStatus().GetState() == swarmv1.TaskState_COMPLETE {
					what = "ended and is not restarted"
				}
				return l.taskVerdict(done, what, false)
			}
		}
		if t == nil {
			continue
		}
		switch state := t.GetStatus().GetState(); {
		case state == swarmv1.TaskState_PENDING && t.GetStatus().GetUnplaced() != nil:
			left := l.track("unplaced "+s.key, confirmAfter)
			if left == 0 {
				unplaced = append(unplaced, t)
			}
		case state < swarmv1.TaskState_RUNNING:
			starting = true
		}
	}
	// There is no verdict while a task still starts, because its progress may change the placement.
	if len(unplaced) > 0 && !starting {
		return l.placementVerdict(unplaced)
	}
	return nil
}

// taskVerdict is the verdict on a slot whose tasks fail. t is the newest of them. again reports
// whether the planner starts further tasks in the slot.
func (l *look) taskVerdict(t *swarmv1.TaskInfo, what string, again bool) *swarmv1.ServiceVerdict {
	outlook := fmt.Sprintf("service %s stays as asked for, and its tasks are started again until they run", l.name())
	if !again {
		outlook = fmt.Sprintf("the task is not started again until the service changes, as by `swarm service update --force %s`", l.name())
	}
	where := ""
	if node := nodeName(t); node != "" {
		where = " on " + node
	}
	id := t.GetTask().GetId()
	return &swarmv1.ServiceVerdict{
		Reason: fmt.Sprintf("task %s (%s)%s %s: %s", explain.TaskName(t.GetServiceName(), t.GetTask()), id[:min(12, len(id))], where, what, explain.Failure(t.GetStatus())),
		Task:   t, Hint: explain.ImageHint(t.GetStatus().GetErr(), t.GetImage()), Outlook: outlook,
	}
}

// placementVerdict is the verdict on tasks that no node takes.
func (l *look) placementVerdict(tasks []*swarmv1.TaskInfo) *swarmv1.ServiceVerdict {
	first := tasks[0]
	u := first.GetStatus().GetUnplaced()
	hint := explain.StartFirstHint(l.spec(), first.GetTask(), first.GetStatus())
	if hint == "" {
		hint = explain.PlacementHint(u, l.spec().GetTaskTemplate().GetContainerSpec().GetImage())
	}
	return &swarmv1.ServiceVerdict{
		Reason:   fmt.Sprintf("%d of %d tasks cannot be placed: %s", len(tasks), max(l.progress.GetDesired(), uint64(len(tasks))), explain.Unplaced(u)),
		Unplaced: u, Hint: hint,
		Outlook: fmt.Sprintf("service %s stays as asked for, and starts its tasks as soon as nodes take them", l.name()),
	}
}
