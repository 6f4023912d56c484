package planner

import (
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
	// atom is the atom of the slot's changes. applyActions sets it.
	atom int
	// limitsChanged: this plan moves head to the limits of the current revision without replacing
	// it.
	limitsChanged bool
	// stops are the other tasks of the slot that must stop now, because head or older takes over.
	stops []*cluster.Task
	// demote: head has to become READY, because it may start only after older has stopped.
	demote bool
	// replaceReason becomes part of the status message of the task that replaces head.
	replaceReason string
}

// judge is the first pass. It decides on an action for every slot of the service, from the tasks of
// that slot alone, and appends the slots to views in key order. It writes nothing.
func (p subject) judge(views []view) []view {
	for _, s := range p.service.Slots() {
		views = append(views, p.judgeSlot(s))
	}
	return views
}

// judgeSlot finds the head of the slot and decides on the action.
func (p subject) judgeSlot(s *cluster.Slot) view {
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
		return p.judgeStopped(v)
	}
	if v.older != nil {
		v = p.judgePair(v)
	}
	v.action, v.replaceReason = p.judgeHead(v.head)
	return v
}

// judgePair decides which of two tasks of a slot stays. The older task keeps running while a
// start-first replacement starts.
func (p subject) judgePair(v view) view {
	head, older := v.head, v.older
	linked := head.Row.GetReplaces() == older.ID
	if act, _ := p.judgeHead(older); linked && act == keep && p.mayRun(older) && !head.Running() {
		if older.Revision.Template() == p.current.Template() && head.Revision.Template() != p.current.Template() {
			// A rollback came before the new task was running. The old task is the wanted one.
			v.stops = append(v.stops, head)
			v.head, v.older = older, nil
		} else if !p.update.StartFirst() && head.Status.GetUnplaced() != nil && head.Revision.Template() == p.current.Template() {
			// The update order is stop-first now. The new task may be waiting for what the old task
			// reserves.
			v.stops, v.demote = append(v.stops, older), true
			v.older = nil
		}
		return v
	}
	for _, t := range v.slot.Tasks {
		if t.Wanted() && t != head {
			v.stops = append(v.stops, t)
		}
	}
	v.older = nil
	return v
}

// judgeHead decides on the action for a task that should run, and returns the reason if the task
// is replaced.
func (p subject) judgeHead(t *cluster.Task) (action, string) {
	switch {
	case t.State() == swarmv1.TaskState_SHUTDOWN:
		// The planner did not ask the task to stop: its host was shut down. This is not a failure
		// of the task, so it does not count as a restart.
		return reschedule, "its node went down"
	case t.Ended():
		return p.judgeEnd(t)
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
func (p subject) judgeEnd(t *cluster.Task) (action, string) {
	if p.service.Job() && t.State() == swarmv1.TaskState_COMPLETE {
		return finished, ""
	}
	if !t.Revision.Restart.Allows(t.Rows(), p.state.ReportedAt(t)) {
		return finished, ""
	}
	return restart, ""
}

// judgeStopped decides on a slot in which no task should run. The newest task says whether another
// must follow.
func (p subject) judgeStopped(v view) view {
	t := v.slot.Newest()
	v.action = fill
	byItself := t.State() == swarmv1.TaskState_COMPLETE || t.Failure()
	if t.Desired() == swarmv1.TaskState_SHUTDOWN && byItself {
		if act, _ := p.judgeEnd(t); act == finished {
			v.action = finished
		}
	}
	if t.Desired() == swarmv1.TaskState_REMOVE {
		v.action = drop
	}
	return v
}
