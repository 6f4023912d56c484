package planner

import (
	"fmt"
	"slices"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

// An update replaces outdated tasks, a few at a time. Its progress is computed from the tasks, so a
// new leader continues where the previous leader stopped. Only its state and its start are stored,
// in the service's row.
//
// The control API clears update_status with every new revision, and writes ROLLBACK_STARTED for a
// rollback that the user asked for. A status that is older than the current revision belongs to an
// earlier update and is ignored. Order is decided by versions, because times are those of the
// manager that led when they were written.

const (
	updateNone        = swarmv1.UpdateStatus_UNKNOWN
	updateRunning     = swarmv1.UpdateStatus_UPDATING
	updatePaused      = swarmv1.UpdateStatus_PAUSED
	updateCompleted   = swarmv1.UpdateStatus_COMPLETED
	rollbackStarted   = swarmv1.UpdateStatus_ROLLBACK_STARTED
	rollbackPaused    = swarmv1.UpdateStatus_ROLLBACK_PAUSED
	rollbackCompleted = swarmv1.UpdateStatus_ROLLBACK_COMPLETED
)

// updateState returns the state of the update to the current revision, or updateNone if the
// stored status belongs to an earlier update.
func (r *run) updateState() swarmv1.UpdateStatus_State {
	st := r.service.row.GetUpdateStatus()
	if st.GetState() != rollbackStarted && st.GetStartedVersion() < r.current.row.GetMeta().GetVersion() {
		return updateNone
	}
	return st.GetState()
}

// updateStatus returns the update status as this plan leaves it.
func (r *run) updateStatus() *swarmv1.UpdateStatus {
	if r.serviceCopy != nil {
		return r.serviceCopy.GetUpdateStatus()
	}
	return r.service.row.GetUpdateStatus()
}

// paused says that the update is paused. A task that must be replaced anyway keeps its revision
// then.
func (r *run) paused() bool {
	s := r.updateState()
	return s == updatePaused || s == rollbackPaused
}

func (r *run) rollingBack() bool {
	s := r.updateState()
	return s == rollbackStarted || s == rollbackPaused || s == rollbackCompleted
}

// updateConfig returns the options of the update, or those of the rollback while the service
// rolls back.
func (r *run) updateConfig() *swarmv1.UpdateConfig {
	if r.rollingBack() {
		return r.current.spec().GetRollbackConfig()
	}
	return r.current.spec().GetUpdateConfig()
}

func (r *run) startFirst() bool {
	return r.updateConfig().GetOrder() == swarmv1.UpdateConfig_START_FIRST
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
	if r.service.job() {
		return true
	}
	state := r.updateState()
	if state == updatePaused || state == rollbackPaused {
		return true
	}
	active := state == updateRunning || state == rollbackStarted
	p := r.progress(active)
	if !active && len(p.outdated) == 0 {
		return true
	}
	if !active {
		p = r.progress(true) // counts slots that the previous update has not finished
		r.setUpdateState(updateRunning, "update in progress")
	} else if p.total > 0 && float32(p.failed)/float32(p.total) > r.updateConfig().GetMaxFailureRatio() {
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
	if n := r.updateConfig().GetParallelism(); n > 0 {
		budget = max(0, int(min(n, 1<<30))-p.inProgress)
	}
	runs := func(v *view) int {
		if v.head != nil && v.head.running() {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(p.outdated, func(a, b *view) int { return runs(a) - runs(b) })
	for _, v := range p.outdated {
		switch {
		case v.head == nil:
			v.action = fill
		case v.head.unplaced() && (v.older == nil || r.startFirst()):
			v.action = updateSlot // nothing stops, so this does not count as parallel
			continue
		default:
			v.action = updateSlot
		}
		if budget--; budget < 0 {
			v.action = keep
			if v.head == nil || v.head.ended() {
				v.action = finished
			}
		}
	}
}

// handleFailures applies the failure action of the update after too many new tasks have failed.
// Like planUpdate it returns false if it starts a rollback.
func (r *run) handleFailures(state swarmv1.UpdateStatus_State, p progress) bool {
	action := r.updateConfig().GetFailureAction()
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
	case action == swarmv1.UpdateConfig_ROLLBACK && r.service.revisions[r.service.row.GetPreviousRevision()] != nil:
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
		r.serviceCopy = r.service.row.CloneVT()
		r.out.service(r.serviceCopy)
	}
	return r.serviceCopy
}

// setUpdateState writes the update status to the copy of the service's row. updateRunning starts
// a new update.
func (r *run) setUpdateState(state swarmv1.UpdateStatus_State, message string) {
	st := r.service.row.GetUpdateStatus().CloneVT()
	if st == nil || state == updateRunning {
		st = &swarmv1.UpdateStatus{StartedAt: r.nowpb, StartedVersion: r.service.row.GetMeta().GetVersion()}
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
			t = v.slot.newest()
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
func (r *run) measureSlot(p *progress, v *view, t *task) {
	config := r.updateConfig()
	delay, monitor := config.GetDelay().AsDuration(), config.GetMonitor().AsDuration()
	if bad := r.failedTask(v.slot, monitor); bad != nil {
		p.failed++
		if p.failedTask == "" {
			p.failedTask = bad.id
		}
		if r.within(r.state.reportedAt(bad), delay) {
			p.inProgress++
		}
		return
	}
	switch {
	case v.action == finished:
	case !t.running() || v.older != nil:
		p.inProgress++
		p.unstable++
	default:
		since := r.state.reportedAt(t)
		if r.within(since, delay) {
			p.inProgress++
		}
		if r.within(since, max(monitor, delay)) {
			p.unstable++
		}
	}
}

// within says whether less than d has passed since the given time. If so, the service becomes due
// when d has passed.
func (r *run) within(since time.Time, d time.Duration) bool {
	end := since.Add(d)
	if since.IsZero() || !end.After(r.now) {
		return false
	}
	r.wakeAt(end)
	return true
}

// failedTask returns a task of the slot that failed in this update, or nil. The update must have
// created the task, and the task must have ended by itself before it had run for the monitor time.
// A task that ended with exit code 0 has failed, too, if its restart policy starts another one
// after it, because the service is not meant to end.
func (r *run) failedTask(s *slot, monitor time.Duration) *task {
	update := r.service.row.GetUpdateStatus().GetStartedVersion()
	for _, t := range s.tasks {
		if t.revision.template() != r.current.template() || !t.endedEarly() || t.row.GetUpdate() != update {
			continue
		}
		since := t.status.GetRunningSince()
		if since == nil || timeOf(t.status.GetTimestamp()).Sub(since.AsTime()) < monitor {
			return t
		}
	}
	return nil
}
