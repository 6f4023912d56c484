package planner

import (
	"slices"

	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
)

// moveDrained is the fifth pass. It moves tasks away from nodes that are being drained: it sets the
// action of their slots from leave to move, for as many as the parallelism of the service's updates
// allows. An update and a drain at the same time share the parallelism. If the node becomes
// available again, judge no longer says leave, so the tasks that are left stay.
//
// A moved task that no node takes does not count: nothing would be gained by waiting for it, and
// the operator wants the node to become empty. In stop-first order such a service loses its tasks
// on the node one after another; in start-first order they run on until there is room elsewhere.
func (p updatePass) moveDrained() {
	var waiting []*slotPlan
	inProgress := 0
	for i := range p.slotPlans {
		sp := &p.slotPlans[i]
		switch {
		case sp.action == leave:
			waiting = append(waiting, sp)
		case p.beingReplaced(sp):
			inProgress++
		}
	}
	budget := len(waiting)
	if n := p.update.Config.GetParallelism(); n > 0 {
		budget = max(0, int(min(n, 1<<30))-inProgress)
	}
	for _, sp := range waiting[:min(budget, len(waiting))] {
		sp.action = move
	}
}

// beingReplaced says whether an update or a drain replaces the task of the slot now: until the new
// task has been RUNNING for the update's delay.
func (p updatePass) beingReplaced(sp *slotPlan) bool {
	t := sp.head
	switch {
	case sp.action == updateSlot:
		return true
	case sp.action != keep || t == nil || t.Unplaced():
		return false
	case !p.movedByDrain(sp) && !(p.update.Active() && t.Row.GetUpdate() == p.update.Version):
		return false
	case !t.Running() || sp.older != nil:
		return true
	}
	return p.wakeIfFuture(p.update.ReplaceNextAt(p.state.ReportedAt(t)))
}

// movedByDrain says whether the head of the slot replaces a task that did not end by itself and
// whose node is being drained.
func (p updatePass) movedByDrain(sp *slotPlan) bool {
	i := slices.IndexFunc(sp.slot.Tasks, func(o *cluster.Task) bool { return o.ID == sp.head.Row.GetReplaces() })
	if i < 0 {
		return false
	}
	o := sp.slot.Tasks[i]
	return o.Node != nil && o.Node.Draining() && !o.Failure() && o.State() != swarmv1.TaskState_COMPLETE
}
