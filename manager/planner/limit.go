package planner

import (
	"swarm/manager/planner/cluster"
)

// applyLimits moves tasks that differ from the current revision only in limits and reservations to
// that revision. Their workers then change the running containers. A task whose node cannot hold
// the additional reservation keeps its revision and stays outdated. So does a task that no node has
// been sent, because replacing it stops nothing.
func (r *run) applyLimits() {
	for i := range r.views {
		v := &r.views[i]
		t := v.head
		if v.action != keep || t == nil || !r.limitsDiffer(t) {
			continue
		}
		if t.Unplaced() {
			if r.service.Job() { // no update replaces the tasks of a job
				v.action = replace
			}
			continue
		}
		if !r.draft.Resize(t, r.current) {
			continue
		}
		r.out.atom = i + 1
		r.out.edit(t).Revision = r.current.Row.GetNumber()
		v.limitsChanged = true
	}
}

// limitsDiffer says whether the task differs from the current revision only in limits and
// reservations.
func (r *run) limitsDiffer(t *cluster.Task) bool {
	return t.Revision.Row != nil && t.Revision.Template() == r.current.Template() && t.Revision.Limits != r.current.Limits && !t.Ended()
}

// outdated says whether t must be replaced so that the slot is of the current revision. t is the
// head of the slot, or the newest task if there is no head.
func (r *run) outdated(v *view, t *cluster.Task) bool {
	switch {
	case t.Revision.Template() != r.current.Template():
		return true
	case v.head == nil || v.limitsChanged || t.Ended():
		return false
	case t.Status.GetRefusedRevision() != 0 && t.Status.GetRefusedRevision() == t.Row.GetRevision():
		return true
	}
	return r.limitsDiffer(t)
}
