package planner

import (
	"slices"
	"time"

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
	slot *slot
	// head is the newest task that should run, nil if there is none.
	head *task
	// older is the task that head replaces while both run (start-first). Otherwise it is nil.
	older  *task
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
func (r *run) judgeSlot(s *slot) view {
	v := view{slot: s}
	for _, t := range s.tasks {
		if t.wanted() {
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
	linked := head.row.GetReplaces() == older.id
	if act, _ := r.judgeHead(older); linked && act == keep && r.mayRun(older) && !head.running() {
		if older.revision.template() == r.current.template() && head.revision.template() != r.current.template() {
			// A rollback came before the new task was running. The old task is the wanted one.
			r.stopTask(head)
			v.head, v.older = older, nil
		} else if !r.update.StartFirst() && head.status.GetUnplaced() != nil && head.revision.template() == r.current.template() {
			// The update order is stop-first now. The new task may be waiting for what the old task
			// reserves.
			r.stopTask(older)
			r.out.edit(head).DesiredState = swarmv1.TaskState_READY
			v.older = nil
		}
		return v
	}
	for _, t := range v.slot.tasks {
		if t.wanted() && t != head {
			r.stopTask(t)
		}
	}
	v.older = nil
	return v
}

// judgeHead decides on the action for a task that should run, and returns the reason if the task
// is replaced.
func (r *run) judgeHead(t *task) (action, string) {
	switch {
	case t.state() == swarmv1.TaskState_SHUTDOWN:
		// The planner did not ask the task to stop: its host was shut down. This is not a failure
		// of the task, so it does not count as a restart.
		return reschedule, "its node went down"
	case t.ended():
		return r.judgeEnd(t)
	case t.unplaced() && t.node == nil:
		return keep, ""
	case t.node == nil:
		return reschedule, "no node has it"
	case t.node.removed():
		return reschedule, "its node was removed"
	case t.node.down():
		return reschedule, "node " + t.node.name() + " is down"
	case t.node.draining():
		return replace, "node " + t.node.name() + " is being drained"
	}
	if !t.revision.matches(t.node) {
		return replace, "node " + t.node.name() + " no longer satisfies the constraints"
	}
	return keep, ""
}

// judgeEnd decides whether another task follows a task that has ended.
func (r *run) judgeEnd(t *task) (action, string) {
	if r.service.job() && t.state() == swarmv1.TaskState_COMPLETE {
		return finished, ""
	}
	if !t.revision.restart.Allows(t.rows(), r.state.reportedAt(t)) {
		return finished, ""
	}
	return restart, ""
}

// judgeStopped decides on a slot in which no task should run. The newest task says whether another
// must follow.
func (r *run) judgeStopped(v view) view {
	t := v.slot.newest()
	v.action = fill
	byItself := t.state() == swarmv1.TaskState_COMPLETE || t.failure()
	if t.desired() == swarmv1.TaskState_SHUTDOWN && byItself {
		if act, _ := r.judgeEnd(t); act == finished {
			v.action = finished
		}
	}
	if t.desired() == swarmv1.TaskState_REMOVE {
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
			r.fillSlot(v, v.slot.newest())
		case restart, replace, reschedule, updateSlot:
			r.replaceHead(v)
		}
	}
}

// promote sets the desired state of a READY task to RUNNING once it may start.
func (r *run) promote(v *view) {
	t := v.head
	if t == nil || t.desired() != swarmv1.TaskState_READY || r.inFuture(r.state.startAfter(t)) || !r.mayStart(v.slot, t, v.older) {
		return
	}
	r.out.edit(t).DesiredState = swarmv1.TaskState_RUNNING
}

// replaceHead stops the slot's task and adds a new one. In a start-first update the old task keeps
// running.
func (r *run) replaceHead(v *view) {
	t := v.head
	w := r.newTask(v.slot.key, t)
	w.replaceReason, w.atom = v.replaceReason, r.out.atom
	if v.action == restart && w.revision.template() == t.revision.template() {
		w.restarts, w.startAfter = t.revision.restart.Successor(t.rows(), r.now)
		// A rejected task is likely to be rejected again, so its successor gets no node before
		// startAfter. A task that ran gets its successor placed at once: the new task prepares
		// during the delay, and keeps the reservation on its node.
		w.delayPlacement = t.state() == swarmv1.TaskState_REJECTED && !t.rows().LacksImage()
	}
	kept := v.older // runs until the new task is RUNNING; judgePair stops it then
	switch {
	case v.action == updateSlot && !r.update.StartFirst():
		kept = nil // The previous update may have been start-first. This one is stop-first.
	case v.action == updateSlot && kept == nil && r.mayRun(t):
		kept = t
	}
	for _, o := range []*task{v.older, t} {
		if o != nil && o != kept {
			r.stopTask(o)
		}
	}
	if v.older != nil {
		w.replaces = v.older.id // stopTask may have deleted the head
	}
	if r.inFuture(w.startAfter) || !r.mayStart(v.slot, nil, kept) {
		w.desired = swarmv1.TaskState_READY
	}
	r.newTasks = append(r.newTasks, w)
}

// fillSlot adds a task to a slot in which no task should run. t is the newest task of the slot.
func (r *run) fillSlot(v *view, t *task) {
	w := r.newTask(v.slot.key, t)
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
func (r *run) mayStart(s *slot, t, beside *task) bool {
	return !slices.ContainsFunc(s.tasks, func(o *task) bool { return o != t && o != beside && r.mayRun(o) })
}

// mayRun says whether a container of the task may be running, as far as the cluster can know. A
// task on a lost node counts as not running. A single-writer task on a lost node counts as running
// until its desired state is above RUNNING and, after that, the node is fenced. The order matters:
// a node that comes back gets a lease only together with the desired states of its tasks, so it
// cannot run the task again.
func (r *run) mayRun(t *task) bool {
	switch {
	case t.ended() || t.unplaced() || t.node == nil:
		return false
	case !t.node.lost():
		return true
	case !t.revision.spec().GetSingleWriter():
		return false
	}
	return t.wanted() || !r.fenced(t.node)
}

// fenced says whether a lost node is fenced, and wakes the planner when it will be.
func (r *run) fenced(n *node) bool {
	fenced, at := r.state.Fenced(n, r.now)
	if !at.IsZero() {
		r.wakeAt(at)
	}
	return fenced
}

// newTask returns a new task for slot k. t is the task that it follows; nil: the slot is new.
func (r *run) newTask(k slotKey, t *task) newTask {
	w := newTask{key: k, ordinal: 1, revision: r.successorRevision(t), desired: swarmv1.TaskState_RUNNING}
	if t != nil {
		w.id, w.ordinal, w.replaces = idNext(t.slot), t.slot.newest().row.GetOrdinal()+1, t.id
		if w.revision.template() == t.revision.template() {
			w.restarts = t.row.GetRestarts()
		}
	} else {
		w.id = idFirst(r.service, k)
	}
	if k.node != "" {
		w.node = r.state.Node(k.node)
	}
	return w
}

// successorRevision returns the revision of the task that follows t. This is the current revision,
// except while an update is paused: then a task that must be replaced keeps its revision, so that
// the update does not progress.
func (r *run) successorRevision(t *task) *revision {
	if t != nil && t.revision.row != nil && r.update.Paused() {
		return t.revision
	}
	return r.current
}

// stopTask asks a task to stop and keeps its row as history. It deletes the task if no node has
// been sent it, or if its node was removed and the task cannot be running.
func (r *run) stopTask(t *task) {
	switch {
	case t.unplaced(), t.node != nil && t.node.removed() && !t.ended() && !r.mayRun(t):
		r.deleteTask(t)
	case t.wanted():
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
		if v.action == drop || len(v.slot.tasks) == 1 && !v.slot.tasks[0].ended() {
			continue
		}
		r.out.atom = i + 1
		r.reapSlot(v)
	}
}

// reapSlot does the work of reap for one slot. The newest task keeps its row, because the next
// id depends on it.
func (r *run) reapSlot(v *view) {
	newest := v.slot.newest()
	old := 0
	for _, t := range slices.Backward(v.slot.tasks) {
		if t.ended() {
			r.releaseClaims(t)
		}
		if t.wanted() || r.deleted[t.id] {
			continue
		}
		switch {
		case r.mayRun(t):
			continue
		case t.node != nil && t.node.removed() && !t.ended() && t != newest:
			r.deleteTask(t)
			continue
		case t.node != nil && t.node.down() && !t.ended():
			r.orphan(t)
			continue
		case t.desired() == swarmv1.TaskState_REMOVE && t != newest:
			r.deleteTask(t)
			continue
		}
		if old++; old > r.state.historyLimit && t != newest {
			r.deleteTask(t)
		}
	}
}

// orphan sets a task of a node that is down to ORPHANED once orphanAfter has passed.
func (r *run) orphan(t *task) {
	at := r.state.clampTime(t.node.downSince(), t.node.state.GetMeta()).Add(orphanAfter)
	if at.After(r.now) {
		r.wakeAt(at)
		return
	}
	if t.status == nil {
		return
	}
	st := r.out.editStatus(t)
	st.State, st.Timestamp, st.Ready, st.Message = swarmv1.TaskState_ORPHANED, r.nowpb, false, "node has been down for too long"
}

// releaseClaims deletes the claims of an ended task.
func (r *run) releaseClaims(t *task) {
	for _, c := range r.state.Claims(t.id) {
		if !r.deleted[c.GetKey()] {
			r.markDeleted(c.GetKey())
			r.out.delete(tableClaim, c.GetKey(), c.GetMeta())
		}
	}
}

// deleteTask deletes the task's row, status and claims.
func (r *run) deleteTask(t *task) {
	if r.deleted[t.id] {
		return
	}
	r.markDeleted(t.id)
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
