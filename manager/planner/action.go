package planner

import (
	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
)

// applyActions carries out what the passes before it have decided for every slot: it writes changes
// of tasks, and adds new tasks to r.newTasks.
func (r *run) applyActions() {
	for _, k := range r.added.keys {
		r.newTasks = append(r.newTasks, r.planTask(k, nil))
	}
	for i := range r.slotPlans {
		sp := &r.slotPlans[i]
		sp.atom = r.out.newAtom()
		r.applyTaskEdits(sp)
		switch sp.action {
		case keep, leave:
			r.promote(sp)
		case finished:
			if sp.head != nil {
				r.endTask(sp.head)
			}
		case drop:
			r.removeSlot(sp.slot)
		case stop:
			r.stopTask(sp.head)
		case fill:
			r.fillSlot(sp, sp.slot.Newest())
		case restart, replace, move, reschedule, updateSlot:
			r.replaceHead(sp)
		}
	}
}

// applyTaskEdits writes what was decided for tasks of a slot in addition to its action.
func (r *run) applyTaskEdits(sp *slotPlan) {
	for _, t := range sp.stops {
		r.stopTask(t)
	}
	if sp.demote {
		r.out.edit(sp.head).DesiredState = swarmv1.TaskState_READY
	}
	if sp.limitsChanged {
		r.out.edit(sp.head).Revision = r.current.Row.GetNumber()
	}
}

// promote sets the desired state of a READY task to RUNNING once it may start.
func (r *run) promote(sp *slotPlan) {
	t := sp.head
	if t == nil || t.Desired() != swarmv1.TaskState_READY {
		return
	}
	mustWait := r.wakeIfFuture(r.state.StartAfter(t))
	if mustWait || !r.mayStart(sp.slot, t, sp.older) {
		return
	}
	r.out.edit(t).DesiredState = swarmv1.TaskState_RUNNING
}

// replaceHead adds a task that replaces the head of the slot. It stops head and older, except the
// partner of the new task.
func (r *run) replaceHead(sp *slotPlan) {
	t := sp.head
	w := r.planTask(sp.slot.Key, t)
	if sp.older != nil {
		w.replaces = sp.older.ID // head was not running yet, so older is the task that serves
	}
	w.replaceReason, w.atom = sp.replaceReason, sp.atom
	if sp.action == restart && w.revision.Template() == t.Revision.Template() {
		w.restarts, w.startAfter = t.Revision.Restart.Successor(t.Rows(), r.now)
		// A rejected task is likely to be rejected again, so its successor gets no node before
		// startAfter. A task that ran gets its successor placed at once: the new task prepares
		// during the delay, and keeps the reservation on its node.
		w.delayPlacement = t.State() == swarmv1.TaskState_REJECTED && !t.Rows().LacksImage()
	}
	partner := r.partner(sp)
	for _, o := range []*cluster.Task{sp.older, t} {
		if o != nil && o != partner {
			r.stopTask(o)
		}
	}
	mustWait := r.wakeIfFuture(w.startAfter)
	if mustWait || !r.mayStart(sp.slot, nil, partner) {
		w.desired = swarmv1.TaskState_READY
	}
	r.newTasks = append(r.newTasks, w)
}

// partner returns the task of the slot that keeps running while the new task of replaceHead starts,
// or nil if both head and older stop. Once the new task is RUNNING, judgePair stops the partner.
// Only start-first updates, and moves in that order, have partners.
func (r *run) partner(sp *slotPlan) *cluster.Task {
	ordered := sp.action == updateSlot || sp.action == move
	switch {
	case ordered && !r.update.StartFirst():
		return nil
	case sp.older != nil:
		return sp.older // head should have replaced older but never ran, so the new task replaces older
	case ordered && r.mayRun(sp.head):
		return sp.head
	}
	return nil
}

// fillSlot adds a task to a slot in which no task should run. t is the newest task of the slot.
func (r *run) fillSlot(sp *slotPlan, t *cluster.Task) {
	w := r.planTask(sp.slot.Key, t)
	w.atom = sp.atom
	if !r.mayStart(sp.slot, nil, nil) {
		w.desired = swarmv1.TaskState_READY
	}
	r.newTasks = append(r.newTasks, w)
}

// planTask returns a new task for slot k. t is the task that the new task replaces or follows; it
// is nil if the slot is new.
func (r *run) planTask(k cluster.SlotKey, t *cluster.Task) taskPlan {
	w := taskPlan{key: k, ordinal: 1, revision: r.successorRevision(t), desired: swarmv1.TaskState_RUNNING}
	if t != nil {
		w.id, w.ordinal, w.replaces = idNext(t.Slot), t.Slot.Newest().Row.GetOrdinal()+1, t.ID
		sameRun := t.Row.GetJobIteration() == r.service.Row.GetJobStatus().GetJobIteration()
		if sameRun && w.revision.Template() == t.Revision.Template() {
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

// endTask keeps the row of a task that has ended, and that no other task follows, as history. The
// desired state of a task that has done its part of a job is COMPLETE, as in Docker.
func (r *run) endTask(t *cluster.Task) {
	if row := t.Row; r.service.Job() && t.State() == swarmv1.TaskState_COMPLETE && row.GetDesiredState() < swarmv1.TaskState_COMPLETE {
		r.out.edit(t).DesiredState = swarmv1.TaskState_COMPLETE
		r.draft.Stop(t)
		return
	}
	r.stopTask(t)
}

// stopTask asks a task to stop and keeps its row as history. It deletes a task that was never sent
// to a node, and a task that will never report its end and counts as not running.
func (r *run) stopTask(t *cluster.Task) {
	switch {
	case t.Unplaced(), neverReportsEnd(t) && !r.mayRun(t):
		r.deleteTask(t)
	case t.Wanted():
		if row := r.out.edit(t); row.GetDesiredState() < swarmv1.TaskState_SHUTDOWN {
			row.DesiredState = swarmv1.TaskState_SHUTDOWN
			r.draft.Stop(t)
		}
	}
}

// neverReportsEnd says that no worker will report the end of the task, because the task's node was
// removed before the task ended.
func neverReportsEnd(t *cluster.Task) bool { return t.Node != nil && t.Node.Removed() && !t.Ended() }
