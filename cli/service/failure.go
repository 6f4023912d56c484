package service

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

// Why a service does not converge, and what becomes of it then.

// failure says why a service does not settle.
type failure struct {
	// reason is one line: what and why.
	reason string
	// task is the one whose logs tell more; nil when none ran.
	task *swarmv1.TaskInfo
	// unplaced explains placement, node by node.
	unplaced *swarmv1.Unplaced
	hint     string
	// outlook is what becomes of the service now, as a clause of the error; "": nothing is left to say.
	outlook string
}

// text is the error in one line: what happened, what becomes of the service, and what the user can do.
func (f *failure) text(service string) string {
	msg := f.reason
	if f.outlook != "" {
		msg += fmt.Sprintf("; %s; see `swarm service ps %s`", f.outlook, service)
	}
	if f.hint != "" {
		msg += "; " + f.hint
	}
	return msg
}

// rolledBack reports whether the managers have undone the change that is waited for.
func (s *settler) rolledBack(state swarmv1.UpdateStatus_State) bool {
	return state == swarmv1.UpdateStatus_ROLLBACK_COMPLETED && !s.rollback
}

// noteRollback keeps why the managers roll back: what failed is forgotten with its template, and the status says no more of
// it once the rollback has ended.
func (s *settler) noteRollback(state swarmv1.UpdateStatus_State, service *swarmv1.ServiceInfo) {
	if s.rolled != nil || s.rollback || state != swarmv1.UpdateStatus_ROLLBACK_STARTED {
		return
	}
	s.rolled = &failure{reason: service.GetService().GetUpdateStatus().GetMessage()}
	s.blame(s.rolled)
}

// rollbackFailure is the end of a change that the managers have undone.
func (s *settler) rollbackFailure(service *swarmv1.ServiceInfo) *failure {
	f := &failure{reason: "update rolled back", outlook: fmt.Sprintf("service %s runs its previous specification again", service.GetService().GetName())}
	if s.rolled != nil {
		f.reason, f.task, f.hint = s.rolled.reason, s.rolled.task, s.rolled.hint
	}
	return f
}

// blame adds a task that has failed to the failure of an update.
func (s *settler) blame(f *failure) {
	for _, key := range slices.Sorted(maps.Keys(s.failures)) {
		if t := newestFailure(s.failures[key]); t != nil {
			f.task, f.hint = t, imageHint(t.GetStatus().GetErr(), t.GetImage())
			f.reason += fmt.Sprintf("; task %s: %s", term.TaskName(t), failureWord(t))
			return
		}
	}
}

func newestFailure(failed map[string]*swarmv1.TaskInfo) *swarmv1.TaskInfo {
	var newest *swarmv1.TaskInfo
	for _, t := range failed {
		if newest == nil || t.Task.GetMeta().GetCreatedAt().AsTime().After(newest.Task.GetMeta().GetCreatedAt().AsTime()) {
			newest = t
		}
	}
	return newest
}

// failureWord is why a task has failed.
func failureWord(t *swarmv1.TaskInfo) string {
	st := t.GetStatus()
	switch {
	case st.GetErr() != "":
		return term.TaskError(st)
	case st.GetState() == swarmv1.TaskState_COMPLETE:
		return "exit code 0"
	case st.GetContainerStatus().GetOomKilled():
		return "it ran out of memory"
	case st.GetContainerStatus().GetExitCodeUnknown():
		return "it ended, with an exit code that nobody knows"
	}
	return fmt.Sprintf("exit code %d", st.GetContainerStatus().GetExitCode())
}

// judgeFailures looks for what will not get better by itself.
func (s *settler) judgeFailures(now time.Time, v *verdict, service *swarmv1.ServiceInfo, slots []slot) {
	wait := func(since map[string]time.Time, key string, is bool) bool {
		if !is {
			delete(since, key)
			return false
		}
		if _, ok := since[key]; !ok {
			since[key] = now
		}
		left := patience - now.Sub(since[key])
		if left > 0 && (v.again == 0 || left < v.again) {
			v.again = left
		}
		return left <= 0
	}
	var unplaced []*swarmv1.TaskInfo
	inFlight := false
	for _, sl := range slots {
		t, failed := s.current(sl), s.failures[sl.key]
		if willRollBack(service) {
			failed = nil // the managers act on these
		}
		if len(failed) >= failureLimit && t != nil {
			v.failure = taskFailure(service, newestFailure(failed), fmt.Sprintf("failed %d times", len(failed)), true)
			return
		}
		dead, what := newestFailure(failed), "failed and is not restarted"
		if done := s.completed(sl); done != nil && !isJob(service) {
			dead, what = done, "ended and is not restarted"
		}
		over := t == nil && dead != nil && !s.ended(service, sl)
		if wait(s.deadSince, sl.key, over) {
			v.failure = taskFailure(service, dead, what, false)
			return
		}
		stuck := t != nil && t.GetStatus().GetState() == swarmv1.TaskState_PENDING && t.GetStatus().GetUnplaced() != nil
		if wait(s.unplacedSince, sl.key, stuck) {
			unplaced = append(unplaced, t)
		}
		inFlight = inFlight || t != nil && !stuck && t.GetStatus().GetState() < swarmv1.TaskState_RUNNING
	}
	if len(unplaced) > 0 && !inFlight {
		v.failure = placementFailure(service, unplaced, v.progress.Desired)
	}
}

// willRollBack reports whether the managers themselves act on a failing update.
func willRollBack(service *swarmv1.ServiceInfo) bool {
	return service.GetService().GetUpdateStatus().GetState() == swarmv1.UpdateStatus_UPDATING &&
		service.GetRevision().GetSpec().GetUpdateConfig().GetFailureAction() == swarmv1.UpdateConfig_ROLLBACK
}

// taskFailure is that of a slot; again: the managers have another task for it.
func taskFailure(service *swarmv1.ServiceInfo, t *swarmv1.TaskInfo, what string, again bool) *failure {
	name := service.GetService().GetName()
	outlook := fmt.Sprintf("service %s stays as asked for, and its tasks are started again until they run", name)
	if !again {
		outlook = fmt.Sprintf("the task is not started again until the service changes, as by `swarm service update --force %s`", name)
	}
	where := ""
	if node := term.TaskNode(t); node != "" {
		where = " on " + node
	}
	return &failure{
		reason: fmt.Sprintf("task %s (%s)%s %s: %s", term.TaskName(t), term.ShortID(t.Task.GetId()), where, what, failureWord(t)),
		task:   t, hint: imageHint(t.GetStatus().GetErr(), t.GetImage()), outlook: outlook,
	}
}

func placementFailure(service *swarmv1.ServiceInfo, tasks []*swarmv1.TaskInfo, desired int) *failure {
	u := tasks[0].GetStatus().GetUnplaced()
	hint := orderHint(service, tasks[0])
	if hint == "" {
		hint = placementHint(u, term.ShortImage(service.GetRevision().GetSpec().GetTaskTemplate().GetContainerSpec().GetImage()))
	}
	return &failure{
		reason:   fmt.Sprintf("%d of %d tasks cannot be placed: %s", len(tasks), max(desired, len(tasks)), term.UnplacedLine(u)),
		unplaced: u, hint: hint,
		outlook: fmt.Sprintf("service %s stays as asked for, and starts its tasks as soon as nodes take them", service.GetService().GetName()),
	}
}

func (s *settler) updateFailure(state swarmv1.UpdateStatus_State, service *swarmv1.ServiceInfo) *failure {
	name := service.GetService().GetName()
	f := &failure{}
	switch state {
	case swarmv1.UpdateStatus_PAUSED:
		f.reason = "update paused"
		f.outlook = fmt.Sprintf("tasks of service %s that were not updated yet keep the previous specification: go on with `swarm service update`, or back with `swarm service rollback %s`", name, name)
	case swarmv1.UpdateStatus_ROLLBACK_PAUSED:
		f.reason = "rollback paused"
		f.outlook = fmt.Sprintf("tasks of service %s that were not rolled back yet keep the newer specification: go on with `swarm service update`", name)
	default:
		return nil
	}
	// Managers begin with the same words where they have more to say.
	if why := service.GetService().GetUpdateStatus().GetMessage(); strings.HasPrefix(why, f.reason) {
		f.reason = why
	} else {
		f.reason = strings.TrimSuffix(f.reason+": "+why, ": ")
	}
	if why := service.GetEndpoint().GetUnmet(); why != "" {
		f.reason += "; it does not have its former ports and addresses yet: " + why
	}
	s.blame(f)
	return f
}
