package planner

import (
	"slices"
	"time"

	"swarm/manager/planner/cluster"
	"swarm/manager/planner/placement"
	swarmv1 "swarm/proto/swarm/v1"
)

// action is what a plan does with a slot.
type action uint8

const (
	// keep: the slot is as it should be.
	keep action = iota
	// fill: the slot should have a task and has none that should run.
	fill
	// finished: the last task has ended, and no other task follows.
	finished
	// restart: the task ended by itself. A new task follows after the delay of the restart policy.
	restart
	// replace: the task must leave its node. A new task starts after the old one has stopped.
	replace
	// reschedule: the node is lost. A new task starts at once, or after the node is fenced if the
	// service is single-writer.
	reschedule
	// updateSlot: the task is outdated, and the update replaces it now.
	updateSlot
	// stop: the task must stop and no other follows, but the slot remains (global services).
	stop
	// drop: the slot is no longer wanted.
	drop
)

// view is a slot as one plan sees it.
type view struct {
	slot *cluster.Slot
	// head is the newest task that should run, nil if there is none.
	head *cluster.Task
	// older is the task that head replaces while both run (start-first). Otherwise it is nil.
	older  *cluster.Task
	action action
	// limitsChanged: this plan moves head to the limits of the current revision without replacing
	// it.
	limitsChanged bool
	// replaceReason becomes part of the status message of the task that replaces head.
	replaceReason string
}

// judgeSlots decides on an action for every slot, from the tasks of that slot alone.
func (r *run) judgeSlots() {
	for _, s := range r.service.Slots() {
		r.views = append(r.views, r.judgeSlot(s))
	}
}

// judgeSlot finds the head of the slot and decides on the action.
func (r *run) judgeSlot(s *cluster.Slot) view {
	v := view{slot: s}
	for _, t := range s.Tasks {
		if t.Wanted() {
			if v.head != nil {
				v.older = v.head
			}
			v.head = t
		}
	}
	if v.head == nil {
		return r.judgeStopped(v)
	}
	if v.older != nil {
		v = r.judgePair(v)
	}
	v.action, v.replaceReason = r.judgeHead(v.head)
	return v
}

// judgePair decides which of two tasks of a slot stays. The older task keeps running while a
// start-first replacement starts.
func (r *run) judgePair(v view) view {
	head, older := v.head, v.older
	linked := head.Row.GetReplaces() == older.ID
	if act, _ := r.judgeHead(older); linked && act == keep && r.mayRun(older) && !head.Running() {
		if older.Revision.Template() == r.current.Template() && head.Revision.Template() != r.current.Template() {
			// A rollback came before the new task was running. The old task is the wanted one.
			r.stopTask(head)
			v.head, v.older = older, nil
		} else if !r.update.StartFirst() && head.Status.GetUnplaced() != nil && head.Revision.Template() == r.current.Template() {
			// The update order is stop-first now. The new task may be waiting for what the old task
			// reserves.
			r.stopTask(older)
			r.out.edit(head).DesiredState = swarmv1.TaskState_READY
			v.older = nil
		}
		return v
	}
	for _, t := range v.slot.Tasks {
		if t.Wanted() && t != head {
			r.stopTask(t)
		}
	}
	v.older = nil
	return v
}

// judgeHead decides on the action for a task that should run, and returns the reason if the task
// is replaced.
func (r *run) judgeHead(t *cluster.Task) (action, string) {
	switch {
	case t.State() == swarmv1.TaskState_SHUTDOWN:
		// The planner did not ask the task to stop: its host was shut down. This is not a failure
		// of the task, so it does not count as a restart.
		return reschedule, "its node went down"
	case t.Ended():
		return r.judgeEnd(t)
	case t.Unplaced() && t.Node == nil:
		return keep, ""
	case t.Node == nil:
		return reschedule, "no node has it"
	case t.Node.Removed():
		return reschedule, "its node was removed"
	case t.Node.Down():
		return reschedule, "node " + t.Node.Name() + " is down"
	case t.Node.Draining():
		return replace, "node " + t.Node.Name() + " is being drained"
	}
	if !placement.Matches(t.Revision, t.Node) {
		return replace, "node " + t.Node.Name() + " no longer satisfies the constraints"
	}
	return keep, ""
}

// judgeEnd decides whether another task follows a task that has ended.
func (r *run) judgeEnd(t *cluster.Task) (action, string) {
	if r.service.Job() && t.State() == swarmv1.TaskState_COMPLETE {
		return finished, ""
	}
	if !t.Revision.Restart.Allows(t.Rows(), r.state.ReportedAt(t)) {
		return finished, ""
	}
	return restart, ""
}

// judgeStopped decides on a slot in which no task should run. The newest task says whether another
// must follow.
func (r *run) judgeStopped(v view) view {
	t := v.slot.Newest()
	v.action = fill
	byItself := t.State() == swarmv1.TaskState_COMPLETE || t.Failure()
	if t.Desired() == swarmv1.TaskState_SHUTDOWN && byItself {
		if act, _ := r.judgeEnd(t); act == finished {
			v.action = finished
		}
	}
	if t.Desired() == swarmv1.TaskState_REMOVE {
		v.action = drop
	}
	return v
}

// applyActions turns the action of every slot into changes and new tasks.
func (r *run) applyActions() {
	for i := range r.views {
		v := &r.views[i]
		r.out.atom = i + 1
		switch v.action {
		case keep:
			r.promote(v)
		case finished:
			if v.head != nil {
				r.stopTask(v.head)
			}
		case drop:
			r.removeSlot(v.slot)
		case stop:
			r.stopTask(v.head)
		case fill:
			r.fillSlot(v, v.slot.Newest())
		case restart, replace, reschedule, updateSlot:
			r.replaceHead(v)
		}
	}
}

// promote sets the desired state of a READY task to RUNNING once it may start.
func (r *run) promote(v *view) {
	t := v.head
	if t == nil || t.Desired() != swarmv1.TaskState_READY || r.inFuture(r.state.StartAfter(t)) || !r.mayStart(v.slot, t, v.older) {
		return
	}
	r.out.edit(t).DesiredState = swarmv1.TaskState_RUNNING
}

// replaceHead stops the slot's task and adds a new one. In a start-first update the old task keeps
// running.
func (r *run) replaceHead(v *view) {
	t := v.head
	w := r.newTask(v.slot.Key, t)
	w.replaceReason, w.atom = v.replaceReason, r.out.atom
	if v.action == restart && w.revision.Template() == t.Revision.Template() {
		w.restarts, w.startAfter = t.Revision.Restart.Successor(t.Rows(), r.now)
		// A rejected task is likely to be rejected again, so its successor gets no node before
		// startAfter. A task that ran gets its successor placed at once: the new task prepares
		// during the delay, and keeps the reservation on its node.
		w.delayPlacement = t.State() == swarmv1.TaskState_REJECTED && !t.Rows().LacksImage()
	}
	kept := v.older // runs until the new task is RUNNING; judgePair stops it then
	switch {
	case v.action == updateSlot && !r.update.StartFirst():
		kept = nil // The previous update may have been start-first. This one is stop-first.
	case v.action == updateSlot && kept == nil && r.mayRun(t):
		kept = t
	}
	for _, o := range []*cluster.Task{v.older, t} {
		if o != nil && o != kept {
			r.stopTask(o)
		}
	}
	if v.older != nil {
		w.replaces = v.older.ID // stopTask may have deleted the head
	}
	if r.inFuture(w.startAfter) || !r.mayStart(v.slot, nil, kept) {
		w.desired = swarmv1.TaskState_READY
	}
	r.newTasks = append(r.newTasks, w)
}

// fillSlot adds a task to a slot in which no task should run. t is the newest task of the slot.
func (r *run) fillSlot(v *view, t *cluster.Task) {
	w := r.newTask(v.slot.Key, t)
	w.atom = r.out.atom
	if !r.mayStart(v.slot, nil, nil) {
		w.desired = swarmv1.TaskState_READY
	}
	r.newTasks = append(r.newTasks, w)
}

// mayStart says whether a task of the slot may start: t, or a task that this plan creates if t is
// nil. It may start if no other task of the slot may still run. The exception is the task beside,
// which runs together with it in a start-first update; nil: none. A task that may not start yet
// stays READY.
func (r *run) mayStart(s *cluster.Slot, t, beside *cluster.Task) bool {
	return !slices.ContainsFunc(s.Tasks, func(o *cluster.Task) bool { return o != t && o != beside && r.mayRun(o) })
}

// mayRun says whether a container of the task may be running, as far as the cluster can know. A
// task on a lost node counts as not running. A single-writer task on a lost node counts as running
// until its desired state is above RUNNING and, after that, the node is fenced. The order matters:
// a node that comes back gets a lease only together with the desired states of its tasks, so it
// cannot run the task again.
func (r *run) mayRun(t *cluster.Task) bool {
	switch {
	case t.Ended() || t.Unplaced() || t.Node == nil:
		return false
	case !t.Node.Lost():
		return true
	case !t.Revision.Spec().GetSingleWriter():
		return false
	}
	return t.Wanted() || !r.fenced(t.Node)
}

// fenced says whether a lost node is fenced, and wakes the planner when it will be.
func (r *run) fenced(n *cluster.Node) bool {
	fenced, at := r.state.Fenced(n, r.now)
	if !at.IsZero() {
		r.wakeAt(at)
	}
	return fenced
}

// newTask returns a new task for slot k. t is the task that it follows; nil: the slot is new.
func (r *run) newTask(k cluster.SlotKey, t *cluster.Task) newTask {
	w := newTask{key: k, ordinal: 1, revision: r.successorRevision(t), desired: swarmv1.TaskState_RUNNING}
	if t != nil {
		w.id, w.ordinal, w.replaces = idNext(t.Slot), t.Slot.Newest().Row.GetOrdinal()+1, t.ID
		if w.revision.Template() == t.Revision.Template() {
			w.restarts = t.Row.GetRestarts()
		}
	} else {
		w.id = idFirst(r.service, k)
	}
	if k.Node != "" {
		w.node = r.state.Node(k.Node)
	}
	return w
}

// successorRevision returns the revision of the task that follows t. This is the current revision,
// except while an update is paused: then a task that must be replaced keeps its revision, so that
// the update does not progress.
func (r *run) successorRevision(t *cluster.Task) *cluster.Revision {
	if t != nil && t.Revision.Row != nil && r.update.Paused() {
		return t.Revision
	}
	return r.current
}

// stopTask asks a task to stop and keeps its row as history. It deletes the task if no node has
// been sent it, or if its node was removed and the task cannot be running.
func (r *run) stopTask(t *cluster.Task) {
	switch {
	case t.Unplaced(), t.Node != nil && t.Node.Removed() && !t.Ended() && !r.mayRun(t):
		r.deleteTask(t)
	case t.Wanted():
		if row := r.out.edit(t); row.GetDesiredState() < swarmv1.TaskState_SHUTDOWN {
			row.DesiredState = swarmv1.TaskState_SHUTDOWN
			r.draft.Stop(t)
		}
	}
}

// orphanAfter is how long a node may be down before the planner ends the node's tasks. Until then
// the node may come back and report their state. Docker waits for 24 h too.
const orphanAfter = 24 * time.Hour

// reap deletes old tasks of every slot beyond the history limit, releases the claims of ended
// tasks, and ends tasks whose node has been down for too long.
func (r *run) reap() {
	for i := range r.views {
		v := &r.views[i]
		if v.action == drop || len(v.slot.Tasks) == 1 && !v.slot.Tasks[0].Ended() {
			continue
		}
		r.out.atom = i + 1
		r.reapSlot(v)
	}
}

// reapSlot does the work of reap for one slot. The newest task keeps its row, because the next
// id depends on it.
func (r *run) reapSlot(v *view) {
	newest := v.slot.Newest()
	old := 0
	for _, t := range slices.Backward(v.slot.Tasks) {
		if t.Ended() {
			r.releaseClaims(t)
		}
		if t.Wanted() || r.deleted[t.ID] {
			continue
		}
		switch {
		case r.mayRun(t):
			continue
		case t.Node != nil && t.Node.Removed() && !t.Ended() && t != newest:
			r.deleteTask(t)
			continue
		case t.Node != nil && t.Node.Down() && !t.Ended():
			r.orphan(t)
			continue
		case t.Desired() == swarmv1.TaskState_REMOVE && t != newest:
			r.deleteTask(t)
			continue
		}
		if old++; old > r.state.HistoryLimit && t != newest {
			r.deleteTask(t)
		}
	}
}

// orphan sets a task of a node that is down to ORPHANED once orphanAfter has passed.
func (r *run) orphan(t *cluster.Task) {
	at := r.state.ClampTime(t.Node.DownSince(), t.Node.State.GetMeta()).Add(orphanAfter)
	if at.After(r.now) {
		r.wakeAt(at)
		return
	}
	if t.Status == nil {
		return
	}
	st := r.out.editStatus(t)
	st.State, st.Timestamp, st.Ready, st.Message = swarmv1.TaskState_ORPHANED, r.nowpb, false, "node has been down for too long"
}

// releaseClaims deletes the claims of an ended task.
func (r *run) releaseClaims(t *cluster.Task) {
	for _, c := range r.state.Claims(t.ID) {
		if !r.deleted[c.GetKey()] {
			r.markDeleted(c.GetKey())
			r.out.delete(tableClaim, c.GetKey(), c.GetMeta())
		}
	}
}

// deleteTask deletes the task's row, status and claims.
func (r *run) deleteTask(t *cluster.Task) {
	if r.deleted[t.ID] {
		return
	}
	r.markDeleted(t.ID)
	r.out.deleteTask(t)
	r.releaseClaims(t)
}

// markDeleted records that this plan deletes the row with the given key.
func (r *run) markDeleted(key string) {
	if r.deleted == nil {
		r.deleted = map[string]bool{}
	}
	r.deleted[key] = true
}
