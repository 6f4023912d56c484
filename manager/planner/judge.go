package planner

import (
	"swarm/manager/planner/cluster"
	"swarm/manager/planner/placement"
	swarmv1 "swarm/proto/swarm/v1"
)

// action is what a plan does with a slot.
type action uint8

const (
	// keep: the head of the slot stays. A slot without a head stays without one for now.
	keep action = iota
	// fill: the slot has no head and gets a new task.
	fill
	// finished: the newest task has ended, and no other task follows unless the service is updated.
	finished
	// restart: the task ended by itself. A new task follows after the delay of the restart policy.
	restart
	// replace: the task must leave its node. A new task starts after the old one has stopped.
	replace
	// leave: the node of the head is being drained. The head stays until moveDrained moves it.
	leave
	// move: the head leaves its node now, in the update order of the service.
	move
	// reschedule: the node is lost. A new task starts at once, or after the node is fenced if the
	// service is single-writer.
	reschedule
	// updateSlot: the task is outdated, and the update replaces it now.
	updateSlot
	// stop: the task must stop and no other follows until the node is eligible again (global
	// services).
	stop
	// drop: the slot is no longer wanted, so all its tasks are removed.
	drop
)

// slotPlan is what one plan finds and decides for a slot. The first five passes fill it in; the
// last three carry it out.
type slotPlan struct {
	slot *cluster.Slot
	// head is the newest task that should run, nil if there is none.
	head *cluster.Task
	// older is the task that head replaces while both run, in a start-first update. In other cases
	// it is nil.
	older  *cluster.Task
	action action
	// atom is the atom of the slot's changes (see emitter). applyActions sets it.
	atom int
	// limitsChanged: head moves to the limits of the current revision without being replaced.
	limitsChanged bool
	// stops are the tasks of the slot that must stop now and are neither head nor older.
	stops []*cluster.Task
	// demote: head has to become READY, because it may start only after older has stopped.
	demote bool
	// replaceReason becomes part of the status message of the task that replaces head.
	replaceReason string
}

// judge is the first pass. It decides on an action for every slot of the service, from the tasks of
// that slot alone, and appends the slots to slotPlans in key order. It writes nothing.
func (p subject) judge(slotPlans []slotPlan) []slotPlan {
	for _, s := range p.service.Slots() {
		slotPlans = append(slotPlans, p.judgeSlot(s))
	}
	return slotPlans
}

// judgeSlot finds the head of the slot and decides on the action.
func (p subject) judgeSlot(s *cluster.Slot) slotPlan {
	sp := slotPlan{slot: s}
	for _, t := range s.Tasks {
		if t.Wanted() {
			if sp.head != nil {
				sp.older = sp.head
			}
			sp.head = t
		}
	}
	if sp.head == nil {
		return p.judgeStopped(sp)
	}
	if sp.older != nil {
		sp = p.judgePair(sp)
	}
	sp.action, sp.replaceReason = p.judgeHead(sp.head)
	return sp
}

// judgePair decides which tasks stop if several tasks of a slot should run. Unless head is starting
// as the replacement of older, head stays and all other tasks stop. While it is starting, both keep
// running, except in the two cases of the switch.
func (p subject) judgePair(sp slotPlan) slotPlan {
	head, older := sp.head, sp.older
	if !p.headStarts(head, older) {
		for _, t := range sp.slot.Tasks {
			if t.Wanted() && t != head {
				sp.stops = append(sp.stops, t)
			}
		}
		sp.older = nil
		return sp
	}
	headIsCurrent := head.Revision.Template() == p.current.Template()
	olderIsCurrent := older.Revision.Template() == p.current.Template()
	switch {
	case olderIsCurrent && !headIsCurrent:
		// A rollback came before the new task was running, so the old task is the wanted one.
		sp.stops = append(sp.stops, head)
		sp.head, sp.older = older, nil
	case headIsCurrent && !p.update.StartFirst() && head.Status.GetUnplaced() != nil:
		// The update order is stop-first now. The new task may be waiting for what the old task
		// reserves.
		sp.stops, sp.demote = append(sp.stops, older), true
		sp.older = nil
	}
	return sp
}

// headStarts says whether head is the replacement of older in a start-first update and is not
// running yet. Until head runs, older must serve. It returns false if older cannot serve any
// more.
func (p subject) headStarts(head, older *cluster.Task) bool {
	if head.Running() || head.Row.GetReplaces() != older.ID {
		return false
	}
	olderAction, _ := p.judgeHead(older)
	return (olderAction == keep || olderAction == leave) && p.mayRun(older)
}

// judgeHead decides on the action for a task that should run, and returns the reason if the task
// is replaced.
func (p subject) judgeHead(t *cluster.Task) (action, string) {
	switch {
	case t.State() == swarmv1.TaskState_SHUTDOWN:
		// The host of the task was shut down; the planner did not ask the task to stop. This is no
		// failure of the task, so the replacement does not count as a restart.
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
		return p.judgeDrained(t), "node " + t.Node.Name() + " is being drained"
	}
	if !placement.Matches(t.Revision, t.Node) {
		return replace, "node " + t.Node.Name() + " no longer satisfies the constraints"
	}
	if name := p.state.LeavingVolume(t.Revision, t.Row.GetSlot(), t.Node.ID); name != "" {
		return replace, "volume " + name + " is being moved from node " + t.Node.Name()
	}
	return keep, ""
}

// judgeDrained decides on a task whose node is being drained. Tasks that serve leave the node by
// the rules of an update. A task that does not run yet, or that belongs to a job, serves nobody.
func (p subject) judgeDrained(t *cluster.Task) action {
	if p.service.Job() || !t.Running() {
		return replace
	}
	return leave
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

// judgeStopped decides on a slot in which no task should run. Its newest task decides whether
// another task must follow.
func (p subject) judgeStopped(sp slotPlan) slotPlan {
	t := sp.slot.Newest()
	endedByItself := t.State() == swarmv1.TaskState_COMPLETE || t.Failure()
	sp.action = fill
	switch {
	case t.Desired() == swarmv1.TaskState_REMOVE:
		sp.action = drop
	case t.Desired() <= swarmv1.TaskState_SHUTDOWN && endedByItself:
		if act, _ := p.judgeEnd(t); act == finished {
			sp.action = finished
		}
	}
	return sp
}
