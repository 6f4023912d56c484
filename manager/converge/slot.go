package converge

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"swarm/internal/explain"
	"swarm/internal/rollout"
	swarmv1 "swarm/proto/swarm/v1"
)

// slot has the tasks of one slot, newest first. A global service has one slot for each node.
type slot struct {
	key   string
	tasks []*swarmv1.TaskInfo
}

// slotsOf groups tasks by slot. Slots are sorted by number, those of global services by node name.
func slotsOf(tasks []*swarmv1.TaskInfo) []slot {
	tasks = slices.SortedFunc(slices.Values(tasks), func(a, b *swarmv1.TaskInfo) int {
		return cmp.Or(
			strings.Compare(slotKey(a), slotKey(b)),
			cmp.Compare(b.GetTask().GetOrdinal(), a.GetTask().GetOrdinal()),
			b.GetTask().GetMeta().GetCreatedAt().AsTime().Compare(a.GetTask().GetMeta().GetCreatedAt().AsTime()),
			strings.Compare(b.GetTask().GetId(), a.GetTask().GetId()),
		)
	})
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

func slotKey(t *swarmv1.TaskInfo) string {
	if n := t.GetTask().GetSlot(); n != 0 {
		return fmt.Sprintf("%020d", n)
	}
	return nodeName(t)
}

// nodeName returns the name of the task's node, or its id if the node is not known. It returns ""
// if the task has no node.
func nodeName(t *swarmv1.TaskInfo) string {
	return cmp.Or(t.GetNodeName(), t.GetTask().GetNodeId())
}

// wanted reports whether the task has the current template of the service.
func (l *look) wanted(t *swarmv1.TaskInfo) bool {
	rev, ok := l.Revisions[t.GetTask().GetRevision()]
	return ok && rev.GetTemplate() == l.update.Template
}

// applied reports whether the running container has all of the task's revision. It has not yet
// while its worker changes limits, secrets or configs.
func applied(t *swarmv1.TaskInfo) bool {
	return t.GetStatus().GetAppliedRevision() == t.GetTask().GetRevision()
}

func (l *look) rows(t *swarmv1.TaskInfo) rollout.Task {
	return rollout.Task{Row: t.GetTask(), Status: t.GetStatus(), Revision: l.Revisions[t.GetTask().GetRevision()]}
}

// live reports whether the task runs or is about to run: its desired state is RUNNING or lower, and
// it has not ended.
func live(t *swarmv1.TaskInfo) bool {
	return t.GetTask().GetDesiredState() <= swarmv1.TaskState_RUNNING && t.GetStatus().GetState() <= swarmv1.TaskState_RUNNING
}

// current returns the newest live task of the slot. It prefers tasks of the wanted template. It
// returns nil if no task of the slot is live.
func (l *look) current(s slot) *swarmv1.TaskInfo {
	var old *swarmv1.TaskInfo
	for _, t := range s.tasks {
		switch {
		case !live(t):
		case l.wanted(t):
			return t
		case old == nil:
			old = t
		}
	}
	return old
}

// rememberFailures adds the tasks that have failed since the change to l.memory.failures. Their
// rows may be deleted before there is a verdict.
func (l *look) rememberFailures() {
	for _, s := range l.slots {
		for _, t := range s.tasks {
			if !l.failed(t) {
				continue
			}
			if l.memory.failures[s.key] == nil {
				l.memory.failures[s.key] = map[string]*swarmv1.TaskInfo{}
			}
			l.memory.failures[s.key][t.GetTask().GetId()] = t
		}
	}
}

// failed reports whether the task has failed since the change, by the rule of the planner. A task
// of a job has no monitor time: it has failed if it has ended in any state but COMPLETE.
func (l *look) failed(t *swarmv1.TaskInfo) bool {
	if t.GetStatus().GetMeta().GetVersion() <= l.memory.change.Index || !l.wanted(t) {
		return false
	}
	if l.job() {
		return l.rows(t).Failure()
	}
	return l.update.Failed(l.rows(t))
}

// newestFailure returns the failed task that was created last, or nil if there is none.
func newestFailure(failed map[string]*swarmv1.TaskInfo) *swarmv1.TaskInfo {
	var newest *swarmv1.TaskInfo
	for _, t := range failed {
		if newest == nil || t.GetTask().GetMeta().GetCreatedAt().AsTime().After(newest.GetTask().GetMeta().GetCreatedAt().AsTime()) {
			newest = t
		}
	}
	return newest
}

// ended returns the newest task of the slot if the task has ended by itself and no other task will
// follow it. If not, ended returns nil. intended reports whether the task has ended as the service
// intends: the task has completed, and it belongs to a job or its restart policy does not start
// completed tasks again.
func (l *look) ended(s slot) (t *swarmv1.TaskInfo, intended bool) {
	t = s.tasks[0]
	rows := l.rows(t)
	complete := t.GetStatus().GetState() == swarmv1.TaskState_COMPLETE
	endedByItself := complete || rows.Failure()
	if !endedByItself || !l.wanted(t) || l.current(s) != nil {
		return nil, false
	}
	policy := rows.Revision.GetSpec().GetTaskTemplate().GetRestartPolicy()
	if !(l.job() && complete) && rollout.RestartPolicyOf(policy).Allows(rows, t.GetStatus().GetMeta().GetUpdatedAt().AsTime()) {
		return nil, false
	}
	return t, complete && (l.job() || policy.GetCondition() != swarmv1.RestartPolicy_ANY)
}

// stopping returns the number of tasks of the slot that still run although their desired state is
// to stop.
func (s slot) stopping() (n uint64) {
	for _, t := range s.tasks {
		state := t.GetStatus().GetState()
		if t.GetTask().GetDesiredState() > swarmv1.TaskState_RUNNING && state >= swarmv1.TaskState_STARTING && state <= swarmv1.TaskState_RUNNING {
			n++
		}
	}
	return n
}

// survey fills in l.progress. It reports whether every slot has the task that it should have and no
// task is left over.
func (l *look) survey() (complete bool) {
	p, replicated := l.progress, l.replicated()
	p.Desired = l.Service.GetStatus().GetDesiredTasks()
	if replicated != nil {
		p.Desired = replicated.GetReplicas()
	}
	surplus := false
	// place is the number of the slot in labels such as "2/3". A slot of a global service counts
	// only if it has a live task, because a node that has left still has ended ones.
	place := uint64(0)
	for _, s := range l.slots {
		t := l.current(s)
		p.Stopping += s.stopping()
		if replicated == nil && t == nil {
			continue
		}
		place++
		if replicated != nil && place > p.GetDesired() {
			surplus = surplus || t != nil
			continue
		}
		if _, intended := l.ended(s); intended {
			p.Ended++
		}
		if t != nil && l.wanted(t) && t.GetStatus().GetState() == swarmv1.TaskState_RUNNING && applied(t) {
			p.Running++
		}
		l.show(l.slotProgress(l.label(int(place), t), s, t))
	}
	return p.GetRunning()+p.GetEnded() >= p.GetDesired() && !surplus
}

// show adds the progress of a slot to the report. A report with more than shownSlots slots would be
// long, so it has none of them.
func (l *look) show(s *swarmv1.SlotProgress) {
	l.shown++
	if l.shown > shownSlots {
		l.progress.Slots = nil
		return
	}
	l.progress.Slots = append(l.progress.Slots, s)
}

// label returns the user's name for a slot: its place, such as "2/3", or the name of its node if
// the service has one task on each node.
func (l *look) label(place int, t *swarmv1.TaskInfo) string {
	if m := l.spec().GetMode(); m.GetGlobal() != nil || m.GetGlobalJob() != nil {
		return nodeName(t)
	}
	return fmt.Sprintf("%d/%d", place, l.progress.GetDesired())
}

// slotProgress returns the progress of a slot. t is the current task of the slot, or nil.
func (l *look) slotProgress(label string, s slot, t *swarmv1.TaskInfo) *swarmv1.SlotProgress {
	out := &swarmv1.SlotProgress{Label: label}
	failed := newestFailure(l.memory.failures[s.key])
	if t != nil && l.wanted(t) {
		out.State = t.GetStatus().GetState()
		if out.GetState() == swarmv1.TaskState_RUNNING {
			if !applied(t) {
				out.Detail = "limits, secrets and configs are being changed"
			}
			return out
		}
		out.Detail = explainTask(t)
		if out.GetState() >= swarmv1.TaskState_ASSIGNED {
			return out // Earlier reports have shown the failure of the previous task.
		}
	}
	if done, _ := l.ended(s); done != nil && done.GetStatus().GetState() == swarmv1.TaskState_COMPLETE {
		out.State = swarmv1.TaskState_COMPLETE
		return out
	}
	if t != nil && !l.wanted(t) && failed == nil {
		out.State, out.Outdated = t.GetStatus().GetState(), true
		return out
	}
	if failed != nil && out.GetDetail() == "" {
		out.Detail = explain.Failure(failed.GetStatus())
	}
	return out
}

// explainTask returns why the task does not run. It leaves out the node that came nearest, because
// the verdict has it.
func explainTask(t *swarmv1.TaskInfo) string {
	if u := t.GetStatus().GetUnplaced(); u != nil {
		return explain.Refused(u)
	}
	return explain.TaskError(t.GetStatus())
}

func plural(n uint64) string {
	if n == 1 {
		return ""
	}
	return "s"
}
