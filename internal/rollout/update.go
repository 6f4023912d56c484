package rollout

import (
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

// Update is the update of a service to its current revision, or the rollback to it, as the rows of
// the service describe it.
type Update struct {
	// State is UNKNOWN if no update to the current revision has begun.
	State swarmv1.UpdateStatus_State
	// Version names the newest update of the service: UpdateStatus.started_version. Every task
	// names the update that was the newest when the task was created (Task.update).
	Version uint64
	// Template is the template number of the current revision. Tasks of revisions with the same
	// number need no replacement.
	Template uint64
	// Config holds the options of the update, or those of the rollback while the service rolls
	// back.
	Config *swarmv1.UpdateConfig
}

// UpdateOf returns the update of a service. current is the revision that the service's row names.
//
// The control API clears update_status with every new revision, and writes ROLLBACK_STARTED for a
// rollback that the user asked for. A status that is older than the current revision belongs to an
// earlier update, and its state is ignored. Versions decide the order, because times are those of
// the manager that led when they were written.
func UpdateOf(service *swarmv1.Service, current *swarmv1.Revision) Update {
	st := service.GetUpdateStatus()
	u := Update{State: st.GetState(), Version: st.GetStartedVersion(), Template: current.GetTemplate()}
	if u.State != swarmv1.UpdateStatus_ROLLBACK_STARTED && u.Version < current.GetMeta().GetVersion() {
		u.State = swarmv1.UpdateStatus_UNKNOWN
	}
	u.Config = current.GetSpec().GetUpdateConfig()
	if u.IsRollback() {
		u.Config = current.GetSpec().GetRollbackConfig()
	}
	return u
}

// Active says whether the update or the rollback replaces tasks now.
func (u Update) Active() bool {
	return u.State == swarmv1.UpdateStatus_UPDATING || u.State == swarmv1.UpdateStatus_ROLLBACK_STARTED
}

// Paused says whether the update or the rollback is paused. If a task must be replaced for another
// reason in that time, the new task has the revision of the old one.
func (u Update) Paused() bool {
	return u.State == swarmv1.UpdateStatus_PAUSED || u.State == swarmv1.UpdateStatus_ROLLBACK_PAUSED
}

// IsRollback says whether the update is a rollback, which may be running, paused or completed.
func (u Update) IsRollback() bool {
	switch u.State {
	case swarmv1.UpdateStatus_ROLLBACK_STARTED, swarmv1.UpdateStatus_ROLLBACK_PAUSED, swarmv1.UpdateStatus_ROLLBACK_COMPLETED:
		return true
	}
	return false
}

// StartFirst says whether a new task starts before the task that it replaces stops.
func (u Update) StartFirst() bool { return u.Config.GetOrder() == swarmv1.UpdateConfig_START_FIRST }

// Failed says whether the task has failed in this update: the update created the task, the task has
// the template of the current revision, and it ended by itself before it had run for the monitor
// time. A task that ended with exit code 0 has failed, too, if its restart policy starts another
// one after it, because the service should run for ever.
func (u Update) Failed(t Task) bool {
	if t.Revision.GetTemplate() != u.Template || t.Row.GetUpdate() != u.Version || !t.endedEarly() {
		return false
	}
	d, ran := t.ranFor()
	return !ran || d < u.Config.GetMonitor().AsDuration()
}

// StableAt returns when a task that has been RUNNING since the given time becomes stable: after the
// monitor time or the delay, whichever is longer. The update has finished when a stable task runs
// in every slot. It returns since if both are 0, and the zero time if since is zero: a task whose
// start is not known counts as stable. Callers take since from the meta of the status
// (Meta.updated_at), which is a time of a manager, because clocks of hosts differ.
func (u Update) StableAt(since time.Time) time.Time {
	if since.IsZero() {
		return since
	}
	return since.Add(max(u.Config.GetMonitor().AsDuration(), u.Config.GetDelay().AsDuration()))
}

// ReplaceNextAt returns when a task that has been RUNNING, or has failed, since the given time no
// longer counts against the parallelism of the update: after the delay. It returns the zero time if
// since is zero.
func (u Update) ReplaceNextAt(since time.Time) time.Time {
	if since.IsZero() {
		return since
	}
	return since.Add(u.Config.GetDelay().AsDuration())
}
