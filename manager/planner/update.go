package planner

import (
	"fmt"
	"slices"

	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
)

// An update replaces outdated tasks, a few at a time. Its progress is computed from the tasks, so a
// new leader continues where the previous leader stopped. Only its state and its start are stored,
// in the service's row.
//
// Package rollout says which update the rows describe, which tasks have failed in it, and when a
// task is stable.

const (
	updateRunning     = swarmv1.UpdateStatus_UPDATING
	updatePaused      = swarmv1.UpdateStatus_PAUSED
	updateCompleted   = swarmv1.UpdateStatus_COMPLETED
	rollbackStarted   = swarmv1.UpdateStatus_ROLLBACK_STARTED
	rollbackPaused    = swarmv1.UpdateStatus_ROLLBACK_PAUSED
	rollbackCompleted = swarmv1.UpdateStatus_ROLLBACK_COMPLETED
)

// progress is the progress of an update. Its numbers are numbers of slots.
type progress struct {
	outdated []*slotPlan // the outdated slots that get no new task yet
	// inProgress counts the slots that the update is replacing, which the parallelism limits. A
	// slot is in progress until its new task has been RUNNING for the update's delay.
	inProgress int
	// unstable counts the slots whose new task has not been RUNNING for both the delay and the
	// monitor time. The update is completed when there are none.
	unstable   int
	failed     int
	total      int
	failedTask string // the id of the first task that failed
}

// updatePass is the fourth pass. It chooses the outdated tasks that are replaced now, and sets the
// action of their slots to updateSlot or fill. It reads what the passes before it have decided for
// all other slots, and writes nothing.
type updatePass struct {
	subject
	slotPlans []slotPlan
}

// updateResult is what an updatePass wants to write to the service's row.
type updateResult struct {
	status *swarmv1.UpdateStatus // nil: the row stays as it is
	// rollback: the row must point to the previous revision. That changes the current revision, so
	// everything else that this plan has decided for the service is void.
	rollback bool
}

// decide sets the actions of the slots that are updated now, and returns what to write to the
// service's row.
func (p updatePass) decide() updateResult {
	if p.service.Job() || p.update.Paused() {
		return updateResult{}
	}
	active := p.update.Active()
	g := p.computeProgress(active)
	switch {
	case !active && len(g.outdated) == 0:
		return updateResult{}
	case !active:
		// A new update starts. The slots that the previous update was still replacing count as in
		// progress, so that both updates together do not exceed the parallelism.
		p.startUpdates(p.computeProgress(true))
		return p.status(updateRunning, "update in progress")
	case g.total > 0 && float32(g.failed)/float32(g.total) > p.update.Config.GetMaxFailureRatio():
		return p.handleFailures(g)
	}
	p.startUpdates(g)
	if len(g.outdated) == 0 && g.unstable == 0 {
		return p.completed("")
	}
	return updateResult{}
}

// completed returns the status of an update or rollback that has finished.
func (p updatePass) completed(detail string) updateResult {
	if p.update.State == rollbackStarted {
		return p.status(rollbackCompleted, "rollback completed"+detail)
	}
	return p.status(updateCompleted, "update completed"+detail)
}

// startUpdates starts to update as many outdated slots as the parallelism allows, beginning with
// those that have no running task.
func (p updatePass) startUpdates(g progress) {
	budget := len(g.outdated)
	if n := p.update.Config.GetParallelism(); n > 0 {
		budget = max(0, int(min(n, 1<<30))-g.inProgress)
	}
	runs := func(sp *slotPlan) int {
		if sp.head != nil && sp.head.Running() {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(g.outdated, func(a, b *slotPlan) int { return runs(a) - runs(b) })
	for _, sp := range g.outdated {
		switch {
		case sp.head != nil && sp.head.Unplaced() && (sp.older == nil || p.update.StartFirst()):
			sp.action = updateSlot // nothing stops, so this costs nothing of the budget
		case budget == 0: // The slot keeps its action until a later plan.
		case sp.head == nil:
			sp.action = fill
			budget--
		default:
			sp.action = updateSlot
			budget--
		}
	}
}

// handleFailures applies the failure action of the update after too many new tasks have failed.
func (p updatePass) handleFailures(g progress) updateResult {
	action := p.update.Config.GetFailureAction()
	why := "due to failure or early termination of task " + g.failedTask
	switch {
	case action == swarmv1.UpdateConfig_CONTINUE:
		p.startUpdates(g)
		if len(g.outdated) == 0 && g.unstable == 0 {
			return p.completed(fmt.Sprintf(", %d of %d tasks failed", g.failed, g.total))
		}
		return updateResult{}
	case p.update.State == rollbackStarted:
		return p.status(rollbackPaused, "rollback paused "+why)
	case action == swarmv1.UpdateConfig_ROLLBACK && p.service.Revision(p.service.Row.GetPreviousRevision()) != nil:
		return updateResult{rollback: true, status: &swarmv1.UpdateStatus{
			State: rollbackStarted, StartedAt: p.nowpb, StartedVersion: p.service.Row.GetMeta().GetVersion(), Message: "update rolled back " + why,
		}}
	}
	return p.status(updatePaused, "update paused "+why)
}

// status returns the update status of the service with the given state and message. The state
// updateRunning starts a new update.
func (p updatePass) status(state swarmv1.UpdateStatus_State, message string) updateResult {
	st := p.service.Row.GetUpdateStatus().CloneVT()
	if st == nil || state == updateRunning {
		st = &swarmv1.UpdateStatus{StartedAt: p.nowpb, StartedVersion: p.service.Row.GetMeta().GetVersion()}
	}
	st.State, st.Message = state, message
	if state == updateCompleted || state == rollbackCompleted {
		st.CompletedAt = p.nowpb
	}
	return updateResult{status: st}
}

// computeProgress finds the outdated slots and counts all slots, which shows whether an update must
// start. With measure it also counts the slots whose task is not outdated by their progress, and
// makes the service due when one of them becomes stable. measure is true while an update is active
// or starts. At other times nothing depends on that progress.
func (p updatePass) computeProgress(measure bool) progress {
	var g progress
	for i := range p.slotPlans {
		sp := &p.slotPlans[i]
		if sp.action == drop || sp.action == stop {
			continue
		}
		g.total++
		if sp.head == nil && sp.action != finished {
			continue // The slot gets a task of the current revision in this plan, or no task.
		}
		t := sp.head
		if t == nil {
			t = sp.slot.Newest()
		}
		if p.outdated(sp, t) {
			if sp.action == keep || sp.action == leave || sp.action == finished {
				g.outdated = append(g.outdated, sp)
			}
			continue
		}
		if measure {
			p.measureSlot(&g, sp, t)
		}
	}
	return g
}

// measureSlot adds a slot to the progress. t is its task, which has the current template.
func (p updatePass) measureSlot(g *progress, sp *slotPlan, t *cluster.Task) {
	if bad := p.failedTask(sp.slot); bad != nil {
		g.failed++
		if g.failedTask == "" {
			g.failedTask = bad.ID
		}
		if p.wakeIfFuture(p.update.ReplaceNextAt(p.state.ReportedAt(bad))) {
			g.inProgress++
		}
		return
	}
	switch {
	case sp.action == finished:
	case !t.Running() || sp.older != nil:
		g.inProgress++
		g.unstable++
	default:
		since := p.state.ReportedAt(t)
		if p.wakeIfFuture(p.update.ReplaceNextAt(since)) {
			g.inProgress++
		}
		if p.wakeIfFuture(p.update.StableAt(since)) {
			g.unstable++
		}
	}
}

// failedTask returns a task of the slot that failed in this update, or nil.
func (p updatePass) failedTask(s *cluster.Slot) *cluster.Task {
	for _, t := range s.Tasks {
		if p.update.Failed(t.Rows()) {
			return t
		}
	}
	return nil
}
