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

// updateStatus returns the update status as this plan leaves it.
func (r *run) updateStatus() *swarmv1.UpdateStatus {
	if r.serviceCopy != nil {
		return r.serviceCopy.GetUpdateStatus()
	}
	return r.service.Row.GetUpdateStatus()
}

// progress is the progress of an update.
type progress struct {
	outdated []*view // outdated slots that no action of this plan replaces
	// inProgress counts the slots that the update is replacing: their new task has not been RUNNING
	// for the update's delay.
	inProgress int
	// unstable counts the slots whose new task is not RUNNING, or has not been for the monitor time
	// or the delay, whichever is longer.
	unstable   int
	failed     int
	total      int
	failedTask string // the id of the first task that failed
}

// planUpdate chooses the outdated tasks that are replaced now. It returns false if it starts a
// rollback: the current revision changes then, so the other decisions of this plan are void.
func (r *run) planUpdate() bool {
	if r.service.Job() {
		return true
	}
	if r.update.Paused() {
		return true
	}
	state, active := r.update.State, r.update.Active()
	p := r.progress(active)
	if !active && len(p.outdated) == 0 {
		return true
	}
	if !active {
		p = r.progress(true) // counts slots that the previous update has not finished
		r.setUpdateState(updateRunning, "update in progress")
	} else if p.total > 0 && float32(p.failed)/float32(p.total) > r.update.Config.GetMaxFailureRatio() {
		return r.handleFailures(state, p)
	}
	r.startUpdates(p)
	if active && len(p.outdated) == 0 && p.unstable == 0 {
		if state == rollbackStarted {
			r.setUpdateState(rollbackCompleted, "rollback completed")
		} else {
			r.setUpdateState(updateCompleted, "update completed")
		}
	}
	return true
}

// startUpdates starts to update as many outdated slots as the parallelism allows, beginning with
// those that have no running task.
func (r *run) startUpdates(p progress) {
	budget := len(p.outdated)
	if n := r.update.Config.GetParallelism(); n > 0 {
		budget = max(0, int(min(n, 1<<30))-p.inProgress)
	}
	runs := func(v *view) int {
		if v.head != nil && v.head.Running() {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(p.outdated, func(a, b *view) int { return runs(a) - runs(b) })
	for _, v := range p.outdated {
		switch {
		case v.head == nil:
			v.action = fill
		case v.head.Unplaced() && (v.older == nil || r.update.StartFirst()):
			v.action = updateSlot // nothing stops, so this does not count as parallel
			continue
		default:
			v.action = updateSlot
		}
		if budget--; budget < 0 {
			v.action = keep
			if v.head == nil || v.head.Ended() {
				v.action = finished
			}
		}
	}
}

// handleFailures applies the failure action of the update after too many new tasks have failed.
// Like planUpdate it returns false if it starts a rollback.
func (r *run) handleFailures(state swarmv1.UpdateStatus_State, p progress) bool {
	action := r.update.Config.GetFailureAction()
	why := "due to failure or early termination of task " + p.failedTask
	switch {
	case action == swarmv1.UpdateConfig_CONTINUE:
		r.startUpdates(p)
		if len(p.outdated) == 0 && p.unstable == 0 {
			done, text := updateCompleted, "update completed"
			if state == rollbackStarted {
				done, text = rollbackCompleted, "rollback completed"
			}
			r.setUpdateState(done, fmt.Sprintf("%s, %d of %d tasks failed", text, p.failed, p.total))
		}
	case state == rollbackStarted:
		r.setUpdateState(rollbackPaused, "rollback paused "+why)
	case action == swarmv1.UpdateConfig_ROLLBACK && r.service.Revision(r.service.Row.GetPreviousRevision()) != nil:
		r.out.reset()
		row := r.serviceRow()
		row.Revision, row.PreviousRevision = row.GetPreviousRevision(), 0
		row.UpdateStatus = &swarmv1.UpdateStatus{State: rollbackStarted, StartedAt: r.nowpb, StartedVersion: row.GetMeta().GetVersion(), Message: "update rolled back " + why}
		return false
	default:
		r.setUpdateState(updatePaused, "update paused "+why)
	}
	return true
}

// serviceRow returns the copy of the service's row that this plan writes.
func (r *run) serviceRow() *swarmv1.Service {
	if r.serviceCopy == nil {
		r.serviceCopy = r.service.Row.CloneVT()
		r.out.service(r.serviceCopy)
	}
	return r.serviceCopy
}

// setUpdateState writes the update status to the copy of the service's row. updateRunning starts
// a new update.
func (r *run) setUpdateState(state swarmv1.UpdateStatus_State, message string) {
	st := r.service.Row.GetUpdateStatus().CloneVT()
	if st == nil || state == updateRunning {
		st = &swarmv1.UpdateStatus{StartedAt: r.nowpb, StartedVersion: r.service.Row.GetMeta().GetVersion()}
	}
	st.State, st.Message = state, message
	if state == updateCompleted || state == rollbackCompleted {
		st.CompletedAt = r.nowpb
	}
	r.serviceRow().UpdateStatus = st
}

// progress computes the progress of the update. active says that an update is running, so that the
// slots with new tasks count too.
func (r *run) progress(active bool) progress {
	var p progress
	for i := range r.views {
		v := &r.views[i]
		if v.action == drop || v.action == stop {
			continue
		}
		p.total++
		if v.head == nil && v.action != finished {
			continue // The slot gets a task of the current revision in this plan.
		}
		t := v.head
		if t == nil {
			t = v.slot.Newest()
		}
		if r.outdated(v, t) {
			if v.action == keep || v.action == finished {
				p.outdated = append(p.outdated, v)
			}
			continue
		}
		if active {
			r.measureSlot(&p, v, t)
		}
	}
	return p
}

// measureSlot adds a slot to the progress whose task t has the current template.
func (r *run) measureSlot(p *progress, v *view, t *cluster.Task) {
	if bad := r.failedTask(v.slot); bad != nil {
		p.failed++
		if p.failedTask == "" {
			p.failedTask = bad.ID
		}
		if r.inFuture(r.update.ReplaceNextAt(r.state.ReportedAt(bad))) {
			p.inProgress++
		}
		return
	}
	switch {
	case v.action == finished:
	case !t.Running() || v.older != nil:
		p.inProgress++
		p.unstable++
	default:
		since := r.state.ReportedAt(t)
		if r.inFuture(r.update.ReplaceNextAt(since)) {
			p.inProgress++
		}
		if r.inFuture(r.update.StableAt(since)) {
			p.unstable++
		}
	}
}

// failedTask returns a task of the slot that failed in this update, or nil.
func (r *run) failedTask(s *cluster.Slot) *cluster.Task {
	for _, t := range s.Tasks {
		if r.update.Failed(t.Rows()) {
			return t
		}
	}
	return nil
}
