package service

import (
	"fmt"
	"slices"
	"time"

	"swarm/cli/tasktable"
	"swarm/cli/term"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// defaultMonitor is how long tasks must run unchanged to count as stable, as in Docker.
	defaultMonitor = 5 * time.Second
	// patience is how long a state that may pass in a moment is watched before it counts: a task without a node, or a
	// slot whose task has ended and has no successor.
	patience = 2 * time.Second
	// failureLimit is how often the tasks of one slot may fail before waiting longer is pointless.
	failureLimit = 3
)

// settler judges whether a service has settled, from what is seen of it over time. It owns no clock: the time comes with
// each look.
type settler struct {
	waitOptions
	template uint64 // of the tasks that failures were counted for
	// templates are those of the revisions that are known: tasks of one template need not be replaced by one another.
	templates map[uint64]uint64
	caughtUp  bool                                    // the change that is waited for has been seen
	since     time.Time                               // of the first look after that
	rolled    *failure                                // why the managers roll the service back
	failures  map[string]map[string]*swarmv1.TaskInfo // by slot and task id

	stable                   string // what the stable state consists of
	stableSince              time.Time
	unplacedSince, deadSince map[string]time.Time // by slot
}

func newSettler(o waitOptions) *settler {
	return &settler{
		waitOptions: o, failures: map[string]map[string]*swarmv1.TaskInfo{},
		unplacedSince: map[string]time.Time{}, deadSince: map[string]time.Time{},
	}
}

// verdict is the judgement of one look.
type verdict struct {
	settled bool
	failure *failure
	// again is when to look anew though nothing has happened; 0: there is no such time.
	again    time.Duration
	progress term.Progress
}

// slot is the tasks of one slot, newest first.
type slot struct {
	key   string
	tasks []*swarmv1.TaskInfo
}

// judge takes one look.
func (s *settler) judge(now time.Time, service *swarmv1.ServiceInfo, tasks []*swarmv1.TaskInfo) verdict {
	v := verdict{progress: term.Progress{Name: service.GetService().GetName()}}
	if service.GetService().GetPendingDelete() {
		v.failure = &failure{reason: fmt.Sprintf("service %s is being removed", v.progress.Name)}
		return v
	}
	// A rollback may have gone on to a lower revision, but by then the row is newer than the change.
	s.caughtUp = s.caughtUp || service.GetService().GetRevision() == s.revision || service.GetService().GetMeta().GetVersion() >= s.index
	if !s.caughtUp {
		v.again = 100 * time.Millisecond // this manager has not heard of the change yet
		return v
	}
	if s.since.IsZero() {
		s.since = now
	}
	template := service.GetRevision().GetTemplate()
	s.learn(service.GetRevision())
	state := s.updateState(service)
	s.noteRollback(state, service)
	if template != s.template {
		s.template, s.failures = template, map[string]map[string]*swarmv1.TaskInfo{}
	}
	slots := slotsOf(tasks)
	s.count(slots)
	if isJob(service) {
		s.judgeJob(now, &v, service, slots)
		return v
	}
	ids, extra := s.survey(&v.progress, service, slots)
	if v.progress.Desired == 0 && service.GetRevision().GetSpec().GetMode().GetReplicated() == nil && now.Sub(s.since) < patience {
		v.again = patience - now.Sub(s.since) // nobody has counted the nodes yet
		return v
	}
	v.progress.Note = updateNote(state, service)
	if v.failure = s.updateFailure(state, service); v.failure != nil {
		return v
	}
	if len(ids)+v.progress.Ended >= v.progress.Desired && extra == 0 {
		if s.rolledBack(state) {
			v.failure = s.rollbackFailure(service)
			return v
		}
		s.verify(now, &v, service, ids)
		if v.settled && (state == swarmv1.UpdateStatus_UPDATING || state == swarmv1.UpdateStatus_ROLLBACK_STARTED) {
			v.settled = false // the managers have the last word
		}
		return v
	}
	s.stable = ""
	s.judgeFailures(now, &v, service, slots)
	if v.failure != nil && s.rolledBack(state) {
		v.failure.reason = "the update was rolled back, and the previous specification does not run either: " + v.failure.reason
	}
	return v
}

// learn notes the template of a revision.
func (s *settler) learn(r *swarmv1.Revision) {
	if s.templates == nil {
		s.templates = map[uint64]uint64{}
	}
	s.templates[r.GetNumber()] = r.GetTemplate()
}

// knows reports whether the templates of all tasks are known.
func (s *settler) knows(tasks []*swarmv1.TaskInfo) bool {
	for _, t := range tasks {
		if _, ok := s.templates[t.Task.GetRevision()]; !ok {
			return false
		}
	}
	return true
}

// wanted reports whether the task is of the service's current template.
func (s *settler) wanted(t *swarmv1.TaskInfo) bool {
	template, ok := s.templates[t.Task.GetRevision()]
	return ok && template == s.template
}

// slotsOf groups tasks; within a slot the newest comes first.
func slotsOf(tasks []*swarmv1.TaskInfo) []slot {
	tasks = slices.Clone(tasks)
	tasktable.Sort(tasks)
	var out []slot
	for _, t := range tasks {
		if n := len(out); n == 0 || out[n-1].key != tasktable.SlotKey(t) {
			out = append(out, slot{key: tasktable.SlotKey(t)})
		}
		last := &out[len(out)-1]
		last.tasks = append(last.tasks, t)
	}
	return out
}

// count remembers which tasks of each slot have failed: their rows may be reaped before the waiting ends.
func (s *settler) count(slots []slot) {
	for _, sl := range slots {
		for _, t := range sl.tasks {
			if !hasFailed(t) || s.before[t.Task.GetId()] || !s.wanted(t) {
				continue
			}
			if s.failures[sl.key] == nil {
				s.failures[sl.key] = map[string]*swarmv1.TaskInfo{}
			}
			s.failures[sl.key][t.Task.GetId()] = t
		}
	}
}

func hasFailed(t *swarmv1.TaskInfo) bool {
	st := t.GetStatus().GetState()
	return st == swarmv1.TaskState_FAILED || st == swarmv1.TaskState_REJECTED
}

// failedTasks are the ids of the tasks that have failed.
func failedTasks(tasks []*swarmv1.TaskInfo) map[string]bool {
	out := map[string]bool{}
	for _, t := range tasks {
		if hasFailed(t) {
			out[t.Task.GetId()] = true
		}
	}
	return out
}

// isLive reports whether the task runs or is on its way to: it is wanted and has not ended.
func isLive(t *swarmv1.TaskInfo) bool {
	return t.Task.GetDesiredState() <= swarmv1.TaskState_RUNNING && t.GetStatus().GetState() <= swarmv1.TaskState_RUNNING
}

// current is the live task of the slot: one of the wanted template if there is one.
func (s *settler) current(sl slot) *swarmv1.TaskInfo {
	var old *swarmv1.TaskInfo
	for _, t := range sl.tasks {
		switch {
		case !isLive(t):
		case s.wanted(t):
			return t
		case old == nil:
			old = t
		}
	}
	return old
}

// survey fills in the progress, and returns the ids of the tasks that are as wanted and how many are too many.
func (s *settler) survey(p *term.Progress, service *swarmv1.ServiceInfo, slots []slot) (ids []string, extra int) {
	asked := service.GetRevision().GetSpec()
	replicated := asked.GetMode().GetReplicated()
	if replicated != nil {
		p.Desired = int(replicated.GetReplicas())
	} else {
		p.Desired = int(service.GetStatus().GetDesiredTasks())
	}
	place := 0
	for _, sl := range slots {
		t := s.current(sl)
		p.Stopping += stopping(sl)
		if replicated == nil && t == nil {
			continue
		}
		place++
		if t != nil && place > p.Desired && replicated != nil {
			extra++
			continue
		}
		if place > p.Desired && replicated != nil {
			continue
		}
		if s.ended(service, sl) {
			p.Ended++
		}
		if t != nil && s.wanted(t) && t.GetStatus().GetState() == swarmv1.TaskState_RUNNING {
			ids = append(ids, t.Task.GetId())
		}
		label := fmt.Sprintf("%d/%d", place, p.Desired)
		if replicated == nil {
			label = term.TaskNode(t)
		}
		p.Tasks = append(p.Tasks, s.slotProgress(label, sl, t))
	}
	p.Running = len(ids)
	return ids, extra
}

// stopping counts the tasks of the slot that still run although they are to end.
func stopping(sl slot) (n int) {
	for _, t := range sl.tasks {
		state := t.GetStatus().GetState()
		if t.Task.GetDesiredState() > swarmv1.TaskState_RUNNING && state >= swarmv1.TaskState_STARTING && state <= swarmv1.TaskState_RUNNING {
			n++
		}
	}
	return n
}

// completed is the task of the slot that ended with 0 and has no successor; nil when there is none.
func (s *settler) completed(sl slot) *swarmv1.TaskInfo {
	if t := sl.tasks[0]; s.current(sl) == nil && s.wanted(t) && t.GetStatus().GetState() == swarmv1.TaskState_COMPLETE {
		return t
	}
	return nil
}

// ended reports whether the slot has done what its service asks for: its task completed and is not to be restarted.
func (s *settler) ended(service *swarmv1.ServiceInfo, sl slot) bool {
	return s.completed(sl) != nil && restartPolicyOf(service).GetCondition() != swarmv1.RestartPolicy_ANY
}

func restartPolicyOf(service *swarmv1.ServiceInfo) *swarmv1.RestartPolicy {
	return service.GetRevision().GetSpec().GetTaskTemplate().GetRestartPolicy()
}

func (s *settler) slotProgress(label string, sl slot, t *swarmv1.TaskInfo) term.TaskProgress {
	out := term.TaskProgress{Label: label}
	if t != nil && s.wanted(t) {
		out.State = term.EnumWord(t.GetStatus().GetState())
		if t.GetStatus().GetState() == swarmv1.TaskState_RUNNING {
			return out
		}
		if out.Detail = term.TaskError(t.GetStatus()); t.GetStatus().GetUnplaced() != nil {
			out.Detail = term.RefusedLine(t.GetStatus().GetUnplaced())
		}
		if t.GetStatus().GetState() >= swarmv1.TaskState_ASSIGNED {
			return out // It is on its way: what became of the one before it was said then.
		}
	}
	if s.completed(sl) != nil {
		out.State = term.EnumWord(swarmv1.TaskState_COMPLETE)
		return out
	}
	if t != nil && !s.wanted(t) && len(s.failures[sl.key]) == 0 {
		out.State, out.Old = term.EnumWord(t.GetStatus().GetState())+" (old)", true
		return out
	}
	if last := newestFailure(s.failures[sl.key]); last != nil && out.Detail == "" {
		out.Detail = failureWord(last)
	}
	return out
}

// verify waits for the monitor time in which nothing may change.
func (s *settler) verify(now time.Time, v *verdict, service *swarmv1.ServiceInfo, ids []string) {
	slices.Sort(ids)
	key := fmt.Sprint(service.GetService().GetRevision(), " ", ids)
	if key != s.stable {
		s.stable, s.stableSince = key, now
	}
	clear(s.unplacedSince)
	clear(s.deadSince)
	asked := service.GetRevision().GetSpec()
	policy := asked.GetUpdateConfig()
	if s.rollback {
		policy = asked.GetRollbackConfig()
	}
	monitor := defaultMonitor
	if d := policy.GetMonitor().AsDuration(); d > 0 {
		monitor = d
	}
	if v.progress.Desired == 0 && asked.GetMode().GetReplicated() != nil {
		monitor = 0
	}
	if v.progress.Ended > 0 {
		monitor = max(monitor, patience)
	}
	left := monitor - now.Sub(s.stableSince)
	if n := v.progress.Stopping; n > 0 && left <= 0 { // A node that is out of contact may never say that its task has stopped.
		if v.again = stopGrace(asked) + patience - now.Sub(s.stableSince); v.again > 0 {
			v.progress.Note = fmt.Sprintf("%d task%s still to stop", n, term.Plural(n))
			return
		}
	}
	if left <= 0 {
		v.settled = true
		return
	}
	v.progress.Verifying, v.progress.Verify = true, left
	v.again = min(left, time.Second)
}

// stopGrace is how long the tasks of a service may take to stop.
func stopGrace(asked *swarmv1.ServiceSpec) time.Duration {
	if d := asked.GetTaskTemplate().GetContainerSpec().GetStopGracePeriod(); d != nil {
		return d.AsDuration()
	}
	return spec.DefaultStopGracePeriod
}

// updateState is how far the update is, UNKNOWN when there is none or the status is an older update's.
func (s *settler) updateState(service *swarmv1.ServiceInfo) swarmv1.UpdateStatus_State {
	u := service.GetService().GetUpdateStatus()
	if u == nil || s.oldUpdate != nil && u.EqualVT(s.oldUpdate) {
		return swarmv1.UpdateStatus_UNKNOWN
	}
	return u.GetState()
}

func updateNote(state swarmv1.UpdateStatus_State, service *swarmv1.ServiceInfo) string {
	if state != swarmv1.UpdateStatus_ROLLBACK_STARTED {
		return ""
	}
	if msg := service.GetService().GetUpdateStatus().GetMessage(); msg != "" {
		return "rollback: " + msg
	}
	return "rollback: the previous specification is being restored"
}

func isJob(service *swarmv1.ServiceInfo) bool {
	m := service.GetRevision().GetSpec().GetMode()
	return m.GetReplicatedJob() != nil || m.GetGlobalJob() != nil
}

// judgeJob: a job has settled when all of its tasks have completed.
func (s *settler) judgeJob(now time.Time, v *verdict, service *swarmv1.ServiceInfo, slots []slot) {
	p := &v.progress
	p.Job, p.Desired = true, int(service.GetStatus().GetDesiredTasks())
	replicated := service.GetRevision().GetSpec().GetMode().GetReplicatedJob() != nil
	if job := service.GetRevision().GetSpec().GetMode().GetReplicatedJob(); job != nil {
		p.Desired = int(job.GetTotalCompletions())
	}
	iteration := service.GetService().GetJobStatus().GetJobIteration()
	slots = slices.DeleteFunc(slots, func(sl slot) bool { return sl.tasks[0].Task.GetJobIteration() < iteration })
	if !replicated {
		p.Desired = max(p.Desired, len(slots)) // The count may be older than the tasks.
		if p.Desired == 0 && now.Sub(s.since) < patience {
			v.again = patience - now.Sub(s.since) // nobody has counted the nodes yet
			return
		}
	}
	for i, sl := range slots {
		t := sl.tasks[0]
		label := fmt.Sprintf("%d/%d", i+1, p.Desired)
		if !replicated {
			label = term.TaskNode(t)
		}
		if t.GetStatus().GetState() == swarmv1.TaskState_COMPLETE {
			p.Running++
		}
		p.Tasks = append(p.Tasks, term.TaskProgress{Label: label, State: term.EnumWord(t.GetStatus().GetState()), Detail: term.TaskError(t.GetStatus())})
	}
	if v.settled = p.Desired > 0 && p.Running >= p.Desired; !v.settled {
		s.judgeFailures(now, v, service, slots)
	}
}
