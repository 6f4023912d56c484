package planner

import (
	"swarm/manager/planner/cluster"
	"swarm/manager/planner/placement"
)

// applyLimits is the third pass. It moves tasks that differ from the current revision only in
// limits, reservations and constraints to that revision. Their workers then change the running
// containers. Three kinds of tasks keep their revision, and the update replaces them: a task whose
// node cannot hold the additional reservation, a task whose node does not satisfy the constraints,
// and a task that was not sent to a node yet, so that nothing has to stop.
//
// It reads the slots that are kept, reserves in the draft what their tasks need in addition, and
// sets limitsChanged.
func (p subject) applyLimits(slotPlans []slotPlan, draft *cluster.Draft) {
	for i := range slotPlans {
		sp := &slotPlans[i]
		t := sp.head
		if sp.action != keep || t == nil || !p.limitsDiffer(t) {
			continue
		}
		if t.Unplaced() {
			if p.service.Job() { // a job has no update that would replace the task
				sp.action = replace
			}
			continue
		}
		sp.limitsChanged = placement.Matches(p.current, t.Node) && draft.Resize(t, p.current)
	}
}

// limitsDiffer says whether the task differs from the current revision only in the fields of
// spec.Limits.
func (p subject) limitsDiffer(t *cluster.Task) bool {
	return t.Revision.Row != nil && t.Revision.Template() == p.current.Template() && t.Revision.Limits != p.current.Limits && !t.Ended()
}

// outdated says whether the slot must get a new task to run the current revision. t is the head of
// the slot, or the newest task if there is no head.
func (p subject) outdated(sp *slotPlan, t *cluster.Task) bool {
	switch {
	case t.Revision.Template() != p.current.Template():
		return true
	case sp.head == nil || sp.limitsChanged || t.Ended():
		return false
	case t.Status.GetRefusedRevision() != 0 && t.Status.GetRefusedRevision() == t.Row.GetRevision():
		return true
	}
	return p.limitsDiffer(t)
}
