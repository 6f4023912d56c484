package planner

import (
	"swarm/manager/planner/cluster"
)

// applyLimits is the third pass. It moves tasks that differ from the current revision only in
// limits and reservations to that revision. Their workers then change the running containers. A
// task whose node cannot hold the additional reservation keeps its revision and stays outdated. So
// does a task that no node has been sent, because replacing it stops nothing.
//
// It reads the slots that are kept, reserves in the draft what their tasks need in addition, and
// sets limitsChanged.
func (p subject) applyLimits(views []view, draft *cluster.Draft) {
	for i := range views {
		v := &views[i]
		t := v.head
		if v.action != keep || t == nil || !p.limitsDiffer(t) {
			continue
		}
		if t.Unplaced() {
			if p.service.Job() { // no update replaces the tasks of a job
				v.action = replace
			}
			continue
		}
		v.limitsChanged = draft.Resize(t, p.current)
	}
}

// limitsDiffer says whether the task differs from the current revision only in limits and
// reservations.
func (p subject) limitsDiffer(t *cluster.Task) bool {
	return t.Revision.Row != nil && t.Revision.Template() == p.current.Template() && t.Revision.Limits != p.current.Limits && !t.Ended()
}

// outdated says whether t must be replaced so that the slot is of the current revision. t is the
// head of the slot, or the newest task if there is no head.
func (p subject) outdated(v *view, t *cluster.Task) bool {
	switch {
	case t.Revision.Template() != p.current.Template():
		return true
	case v.head == nil || v.limitsChanged || t.Ended():
		return false
	case t.Status.GetRefusedRevision() != 0 && t.Status.GetRefusedRevision() == t.Row.GetRevision():
		return true
	}
	return p.limitsDiffer(t)
}
