package planner

import (
	"fmt"
	"slices"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

// An update replaces outdated tasks, a few at a time. Its progress is read from the tasks, so that a new leader goes on
// where the old one was; only its state and its start are stored, in the service's row.
//
// The control API clears update_status with every new revision, and writes ROLLBACK_STARTED with a roll back that the
// user asked for. A status that is older than the current revision is of an earlier update and does not count. What came
// before or after is told by versions, since times are by the clock of the manager that led.

const (
	stateNone     = swarmv1.UpdateStatus_UNKNOWN
	stateUpdating = swarmv1.UpdateStatus_UPDATING
	statePaused   = swarmv1.UpdateStatus_PAUSED
	stateDone     = swarmv1.UpdateStatus_COMPLETED
	backStarted   = swarmv1.UpdateStatus_ROLLBACK_STARTED
	backPaused    = swarmv1.UpdateStatus_ROLLBACK_PAUSED
	backDone      = swarmv1.UpdateStatus_ROLLBACK_COMPLETED
)

func (r *run) updateState() swarmv1.UpdateStatus_State {
	st := r.svc.row.GetUpdateStatus()
	if st.GetState() != backStarted && st.GetStartedVersion() < r.cur.row.GetMeta().GetVersion() {
		return stateNone
	}
	return st.GetState()
}

// updateStatus is as this plan leaves it.
func (r *run) updateStatus() *swarmv1.UpdateStatus {
	if r.row != nil {
		return r.row.GetUpdateStatus()
	}
	return r.svc.row.GetUpdateStatus()
}

// paused: tasks that must be replaced anyway keep their revision.
func (r *run) paused() bool {
	s := r.updateState()
	return s == statePaused || s == backPaused
}

func (r *run) rollingBack() bool {
	s := r.updateState()
	return s == backStarted || s == backPaused || s == backDone
}

func (r *run) updateConfig() *swarmv1.UpdateConfig {
	if r.rollingBack() {
		return r.cur.spec().GetRollbackConfig()
	}
	return r.cur.spec().GetUpdateConfig()
}

func (r *run) startFirst() bool {
	return r.updateConfig().GetOrder() == swarmv1.UpdateConfig_START_FIRST
}

// progress of an update.
type progress struct {
	dirty []*view // outdated, and not being replaced yet
	// busy counts the slots being renewed: until the new task has been RUNNING for the delay.
	busy int
	// unsettled counts the slots whose new task is not RUNNING, or has not been for the monitor time.
	unsettled int
	failed    int
	total     int
	culprit   string // a task that failed
}

// update chooses the outdated tasks that are replaced now. It returns false when it has changed its mind about the
// current revision: then nothing else of this plan holds.
func (r *run) update() bool {
	if r.svc.job() {
		return true
	}
	state := r.updateState()
	if state == statePaused || state == backPaused {
		return true
	}
	active := state == stateUpdating || state == backStarted
	p := r.progress(active)
	if !active && len(p.dirty) == 0 {
		return true
	}
	if !active {
		p = r.progress(true) // with the slots that an update before this one left unfinished
		r.setUpdate(stateUpdating, "update in progress")
	} else if p.total > 0 && float32(p.failed)/float32(p.total) > r.updateConfig().GetMaxFailureRatio() {
		return r.fail(state, p)
	}
	r.advance(p)
	if active && len(p.dirty) == 0 && p.unsettled == 0 {
		if state == backStarted {
			r.setUpdate(backDone, "rollback completed")
		} else {
			r.setUpdate(stateDone, "update completed")
		}
	}
	return true
}

// advance starts to renew as many outdated slots as there are free hands: first those that do not run anyway.
func (r *run) advance(p progress) {
	hands := len(p.dirty)
	if n := r.updateConfig().GetParallelism(); n > 0 {
		hands = max(0, int(min(n, 1<<30))-p.busy)
	}
	runs := func(v *view) int {
		if v.head != nil && v.head.running() {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(p.dirty, func(a, b *view) int { return runs(a) - runs(b) })
	for _, v := range p.dirty {
		switch {
		case v.head == nil:
			v.act = fill
		case v.head.unplaced() && (v.older == nil || r.startFirst()):
			v.act = renew // nothing stops, nothing to wait for
			continue
		default:
			v.act = renew
		}
		if hands--; hands < 0 {
			v.act = keep
			if v.head == nil || v.head.ended() {
				v.act = finished
			}
		}
	}
}

// fail does what the user wants done when too many new tasks fail.
func (r *run) fail(state swarmv1.UpdateStatus_State, p progress) bool {
	action := r.updateConfig().GetFailureAction()
	why := "due to failure or early termination of task " + p.culprit
	switch {
	case action == swarmv1.UpdateConfig_CONTINUE:
		r.advance(p)
		if len(p.dirty) == 0 && p.unsettled == 0 {
			done, text := stateDone, "update completed"
			if state == backStarted {
				done, text = backDone, "rollback completed"
			}
			r.setUpdate(done, fmt.Sprintf("%s, %d of %d tasks failed", text, p.failed, p.total))
		}
	case state == backStarted:
		r.setUpdate(backPaused, "rollback paused "+why)
	case action == swarmv1.UpdateConfig_ROLLBACK && r.svc.revs[r.svc.row.GetPreviousRevision()] != nil:
		r.out.reset()
		row := r.serviceRow()
		row.Revision, row.PreviousRevision = row.GetPreviousRevision(), 0
		row.UpdateStatus = &swarmv1.UpdateStatus{State: backStarted, StartedAt: r.nowpb, StartedVersion: row.GetMeta().GetVersion(), Message: "update rolled back " + why}
		return false
	default:
		r.setUpdate(statePaused, "update paused "+why)
	}
	return true
}

// serviceRow is the copy of the service's row that will be written.
func (r *run) serviceRow() *swarmv1.Service {
	if r.row == nil {
		r.row = r.svc.row.CloneVT()
		r.out.service(r.row)
	}
	return r.row
}

func (r *run) setUpdate(state swarmv1.UpdateStatus_State, message string) {
	st := r.svc.row.GetUpdateStatus().CloneVT()
	if st == nil || state == stateUpdating {
		st = &swarmv1.UpdateStatus{StartedAt: r.nowpb, StartedVersion: r.svc.row.GetMeta().GetVersion()}
	}
	st.State, st.Message = state, message
	if state == stateDone || state == backDone {
		st.CompletedAt = r.nowpb
	}
	r.serviceRow().UpdateStatus = st
}

// progress looks at all slots; those that are up to date matter while an update is active.
func (r *run) progress(active bool) progress {
	var p progress
	for i := range r.views {
		v := &r.views[i]
		if v.act == drop || v.act == stop {
			continue
		}
		p.total++
		if v.head == nil && v.act != finished {
			continue // to be filled with a task of the current revision
		}
		t := v.head
		if t == nil {
			t = v.slot.newest()
		}
		if r.outdated(v, t) {
			if v.act == keep || v.act == finished {
				p.dirty = append(p.dirty, v)
			}
			continue
		}
		if active {
			r.gauge(&p, v, t)
		}
	}
	return p
}

// gauge adds a slot that has a task of the new template.
func (r *run) gauge(p *progress, v *view, t *task) {
	config := r.updateConfig()
	delay, monitor := config.GetDelay().AsDuration(), config.GetMonitor().AsDuration()
	if bad := r.failed(v.slot, monitor); bad != nil {
		p.failed++
		if p.culprit == "" {
			p.culprit = bad.id
		}
		if r.within(r.p.reportedAt(bad), delay) {
			p.busy++
		}
		return
	}
	switch {
	case v.act == finished:
	case !t.running() || v.older != nil:
		p.busy++
		p.unsettled++
	default:
		since := r.p.reportedAt(t)
		if r.within(since, delay) {
			p.busy++
		}
		if r.within(since, max(monitor, delay)) {
			p.unsettled++
		}
	}
}

// within says whether less than d has passed since the time, and if so asks to be woken when it has.
func (r *run) within(since time.Time, d time.Duration) bool {
	end := since.Add(d)
	if since.IsZero() || !end.After(r.now) {
		return false
	}
	r.wake(end)
	return true
}

// failed returns the task of the slot that failed in this update: the update made it, and it ended by itself before it had
// run for the monitor time. A task that ended with exit code 0 has failed too if its restart policy starts another one
// after it: the service is not meant to end.
func (r *run) failed(s *slot, monitor time.Duration) *task {
	update := r.svc.row.GetUpdateStatus().GetStartedVersion()
	for _, t := range s.tasks {
		if t.rev.template() != r.cur.template() || !t.endedEarly() || t.row.GetUpdate() != update {
			continue
		}
		since := t.status.GetRunningSince()
		if since == nil || instant(t.status.GetTimestamp()).Sub(since.AsTime()) < monitor {
			return t
		}
	}
	return nil
}
