package planner

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"swarm/internal/rollout"
	"swarm/manager/planner/cluster"
)

// subject is what every pass reads: the service that is planned, and the time. No pass changes it,
// except for the timer's deadline.
type subject struct {
	state   *cluster.State
	service *cluster.Service
	current *cluster.Revision // nil: its row has not arrived, so no pass runs
	update  rollout.Update    // as the rows describe it before this plan
	*timer
}

// timer is the time of a plan, and the deadline at which the service must be planned again.
type timer struct {
	now      time.Time
	nowpb    *timestamppb.Timestamp // now in the form of rows; shared, so nothing may modify it
	deadline time.Time              // zero: none
}

// wakeAt makes the service due again at the given time, or earlier.
func (t *timer) wakeAt(at time.Time) {
	if t.deadline.IsZero() || at.Before(t.deadline) {
		t.deadline = at
	}
}

// inFuture says whether a time is after now. If so, the service becomes due then.
func (t *timer) inFuture(at time.Time) bool {
	if !at.After(t.now) {
		return false
	}
	t.wakeAt(at)
	return true
}

// mayStart says whether a task of the slot may start: t, or a task that this plan creates if t is
// nil. It may start if no other task of the slot may still run. The exception is the task beside,
// which runs together with it in a start-first update; nil: none. A task that may not start yet
// stays READY.
func (p subject) mayStart(s *cluster.Slot, t, beside *cluster.Task) bool {
	return !slices.ContainsFunc(s.Tasks, func(o *cluster.Task) bool { return o != t && o != beside && p.mayRun(o) })
}

// mayRun says whether a container of the task may be running, as far as the cluster can know. A
// task on a lost node counts as not running. A single-writer task on a lost node counts as running
// until its desired state is above RUNNING and, after that, the node is fenced. The order matters:
// a node that comes back gets a lease only together with the desired states of its tasks, so it
// cannot run the task again.
func (p subject) mayRun(t *cluster.Task) bool {
	switch {
	case t.Ended() || t.Unplaced() || t.Node == nil:
		return false
	case !t.Node.Lost():
		return true
	case !t.Revision.Spec().GetSingleWriter():
		return false
	}
	return t.Wanted() || !p.fenced(t.Node)
}

// fenced says whether a lost node is fenced, and wakes the planner when it will be.
func (p subject) fenced(n *cluster.Node) bool {
	fenced, at := p.state.Fenced(n, p.now)
	if !at.IsZero() {
		p.wakeAt(at)
	}
	return fenced
}
