package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

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
	progress progress
}

// failure says why a service does not settle.
type failure struct {
	// reason is one line: what and why.
	reason string
	// task is the one whose logs tell more; nil when none ran.
	task *swarmv1.TaskInfo
	// unplaced explains placement, node by node.
	unplaced *swarmv1.Unplaced
	hint     string
}

// progress is what there is to show.
type progress struct {
	name             string
	running, desired int
	job              bool
	slots            []slotProgress
	note             string
	// verify is how long the tasks still have to stay as they are; only when verifying.
	verify    time.Duration
	verifying bool
}

type slotProgress struct{ label, state, detail string }

// slot is the tasks of one slot, newest first.
type slot struct {
	key   string
	tasks []*swarmv1.TaskInfo
}

// judge takes one look.
func (s *settler) judge(now time.Time, service *swarmv1.ServiceInfo, tasks []*swarmv1.TaskInfo) verdict {
	v := verdict{progress: progress{name: service.GetService().GetName()}}
	if service.GetService().GetPendingDelete() {
		v.failure = &failure{reason: fmt.Sprintf("service %s is being removed", v.progress.name)}
		return v
	}
	// A rollback may have gone on to a lower revision, but by then the row is newer than the change.
	s.caughtUp = s.caughtUp || service.GetService().GetRevision() == s.revision || service.GetService().GetMeta().GetVersion() >= s.index
	if !s.caughtUp {
		v.again = 100 * time.Millisecond // this manager has not heard of the change yet
		return v
	}
	template := service.GetRevision().GetTemplate()
	s.learn(service.GetRevision())
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
	state := s.updateState(service)
	v.progress.note = updateNote(state, service)
	if v.failure = s.updateFailure(state, service); v.failure != nil {
		return v
	}
	if len(ids) >= v.progress.desired && extra == 0 {
		s.verify(now, &v, service, ids)
		if v.settled && (state == swarmv1.UpdateStatus_UPDATING || state == swarmv1.UpdateStatus_ROLLBACK_STARTED) {
			v.settled = false // the managers have the last word
		}
		return v
	}
	s.stable = ""
	s.judgeFailures(now, &v, service, slots)
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
	sortTasks(tasks)
	var out []slot
	for _, t := range tasks {
		if n := len(out); n == 0 || out[n-1].key != slotKey(t) {
			out = append(out, slot{key: slotKey(t)})
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
func (s *settler) survey(p *progress, service *swarmv1.ServiceInfo, slots []slot) (ids []string, extra int) {
	spec := service.GetRevision().GetSpec()
	replicated := spec.GetMode().GetReplicated()
	if replicated != nil {
		p.desired = int(replicated.GetReplicas())
	} else {
		p.desired = int(service.GetStatus().GetDesiredTasks())
	}
	place := 0
	for _, sl := range slots {
		t := s.current(sl)
		if replicated == nil && t == nil {
			continue
		}
		place++
		if t != nil && place > p.desired && replicated != nil {
			extra++
			continue
		}
		if place > p.desired && replicated != nil {
			continue
		}
		if t != nil && s.wanted(t) && t.GetStatus().GetState() == swarmv1.TaskState_RUNNING {
			ids = append(ids, t.Task.GetId())
		}
		label := fmt.Sprintf("%d/%d", place, p.desired)
		if replicated == nil {
			label = nodeName(t)
		}
		p.slots = append(p.slots, s.slotProgress(label, sl, t))
	}
	p.running = len(ids)
	return ids, extra
}

func (s *settler) slotProgress(label string, sl slot, t *swarmv1.TaskInfo) slotProgress {
	out := slotProgress{label: label}
	if t != nil && s.wanted(t) {
		out.state = enumWord(t.GetStatus().GetState())
		if t.GetStatus().GetState() == swarmv1.TaskState_RUNNING {
			return out
		}
		if out.detail = taskError(t.GetStatus()); t.GetStatus().GetUnplaced() != nil {
			out.detail = refusedLine(t.GetStatus().GetUnplaced())
		}
		if t.GetStatus().GetState() >= swarmv1.TaskState_ASSIGNED {
			return out // It is on its way: what became of the one before it was said then.
		}
	}
	if last := newestFailure(s.failures[sl.key]); last != nil && out.detail == "" {
		out.detail = failureWord(last)
	}
	return out
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
		return taskError(st)
	case st.GetContainerStatus().GetOomKilled():
		return "it ran out of memory"
	case st.GetContainerStatus().GetExitCodeUnknown():
		return "it ended, with an exit code that nobody knows"
	}
	return fmt.Sprintf("exit code %d", st.GetContainerStatus().GetExitCode())
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
	spec := service.GetRevision().GetSpec()
	policy := spec.GetUpdateConfig()
	if s.rollback {
		policy = spec.GetRollbackConfig()
	}
	monitor := defaultMonitor
	if d := policy.GetMonitor().AsDuration(); d > 0 {
		monitor = d
	}
	if v.progress.desired == 0 && spec.GetMode().GetReplicated() != nil {
		monitor = 0
	}
	left := monitor - now.Sub(s.stableSince)
	if left <= 0 {
		v.settled = true
		return
	}
	v.progress.verifying, v.progress.verify = true, left
	v.again = min(left, time.Second)
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
		if len(failed) >= failureLimit {
			v.failure = taskFailure(newestFailure(failed), fmt.Sprintf("failed %d times", len(failed)))
			return
		}
		if wait(s.deadSince, sl.key, t == nil && len(failed) > 0) {
			v.failure = taskFailure(newestFailure(failed), "failed and is not restarted")
			return
		}
		stuck := t != nil && t.GetStatus().GetState() == swarmv1.TaskState_PENDING && t.GetStatus().GetUnplaced() != nil
		if wait(s.unplacedSince, sl.key, stuck) {
			unplaced = append(unplaced, t)
		}
		inFlight = inFlight || t != nil && !stuck && t.GetStatus().GetState() < swarmv1.TaskState_RUNNING
	}
	if len(unplaced) > 0 && !inFlight {
		v.failure = placementFailure(service, unplaced, v.progress.desired)
	}
}

// willRollBack reports whether the managers themselves act on a failing update.
func willRollBack(service *swarmv1.ServiceInfo) bool {
	return service.GetService().GetUpdateStatus().GetState() == swarmv1.UpdateStatus_UPDATING &&
		service.GetRevision().GetSpec().GetUpdateConfig().GetFailureAction() == swarmv1.UpdateConfig_ROLLBACK
}

func taskFailure(t *swarmv1.TaskInfo, what string) *failure {
	where := ""
	if node := nodeName(t); node != "" {
		where = " on " + node
	}
	return &failure{
		reason: fmt.Sprintf("task %s (%s)%s %s: %s", taskName(t), shortID(t.Task.GetId()), where, what, failureWord(t)),
		task:   t, hint: imageHint(t.GetStatus().GetErr(), t.GetImage()),
	}
}

func placementFailure(service *swarmv1.ServiceInfo, tasks []*swarmv1.TaskInfo, desired int) *failure {
	u := tasks[0].GetStatus().GetUnplaced()
	hint := orderHint(service, tasks[0])
	if hint == "" {
		hint = placementHint(u, shortImage(service.GetRevision().GetSpec().GetTaskTemplate().GetContainerSpec().GetImage()))
	}
	return &failure{
		reason:   fmt.Sprintf("%d of %d tasks cannot be placed: %s", len(tasks), max(desired, len(tasks)), unplacedLine(u)),
		unplaced: u, hint: hint,
	}
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

func (s *settler) updateFailure(state swarmv1.UpdateStatus_State, service *swarmv1.ServiceInfo) *failure {
	what := ""
	switch state {
	case swarmv1.UpdateStatus_PAUSED:
		what = "update paused"
	case swarmv1.UpdateStatus_ROLLBACK_PAUSED:
		what = "rollback paused"
	case swarmv1.UpdateStatus_ROLLBACK_COMPLETED:
		if !s.rollback {
			what = "service rolled back"
		}
	}
	if what == "" {
		return nil
	}
	reason := service.GetService().GetUpdateStatus().GetMessage()
	if !strings.HasPrefix(reason, what) { // Managers begin with the same words where they have more to say.
		reason = strings.TrimSuffix(what+": "+reason, ": ")
	}
	if why := service.GetEndpoint().GetUnmet(); why != "" {
		reason += "; it does not have its former ports and addresses yet: " + why
	}
	f := &failure{reason: reason}
	for _, failed := range s.failures {
		if t := newestFailure(failed); t != nil {
			f.task, f.hint = t, imageHint(t.GetStatus().GetErr(), t.GetImage())
			f.reason += fmt.Sprintf("; task %s: %s", taskName(t), failureWord(t))
			break
		}
	}
	return f
}

func isJob(service *swarmv1.ServiceInfo) bool {
	m := service.GetRevision().GetSpec().GetMode()
	return m.GetReplicatedJob() != nil || m.GetGlobalJob() != nil
}

// judgeJob: a job has settled when all of its tasks have completed.
func (s *settler) judgeJob(now time.Time, v *verdict, service *swarmv1.ServiceInfo, slots []slot) {
	p := &v.progress
	p.job, p.desired = true, int(service.GetStatus().GetDesiredTasks())
	if job := service.GetRevision().GetSpec().GetMode().GetReplicatedJob(); job != nil {
		p.desired = int(job.GetTotalCompletions())
	}
	iteration := service.GetService().GetJobStatus().GetJobIteration()
	for i, sl := range slots {
		t := sl.tasks[0]
		if t.Task.GetJobIteration() < iteration {
			continue
		}
		if t.GetStatus().GetState() == swarmv1.TaskState_COMPLETE {
			p.running++
		}
		p.slots = append(p.slots, slotProgress{label: fmt.Sprintf("%d/%d", i+1, p.desired), state: enumWord(t.GetStatus().GetState()), detail: taskError(t.GetStatus())})
	}
	if v.settled = p.desired > 0 && p.running >= p.desired; !v.settled {
		s.judgeFailures(now, v, service, slots)
	}
}
