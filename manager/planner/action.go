package planner

import (
	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
)

// applyActions turns what the passes before it have decided for every slot into changes and new
// tasks.
func (r *run) applyActions() {
	for i := range r.views {
		v := &r.views[i]
		v.atom = r.out.newAtom()
		r.applyView(v)
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

// applyView applies what was decided for a slot besides its action.
func (r *run) applyView(v *view) {
	for _, t := range v.stops {
		r.stopTask(t)
	}
	if v.demote {
		r.out.edit(v.head).DesiredState = swarmv1.TaskState_READY
	}
	if v.limitsChanged {
		r.out.edit(v.head).Revision = r.current.Row.GetNumber()
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
	w.replaceReason, w.atom = v.replaceReason, v.atom
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
	w.atom = v.atom
	if !r.mayStart(v.slot, nil, nil) {
		w.desired = swarmv1.TaskState_READY
	}
	r.newTasks = append(r.newTasks, w)
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
