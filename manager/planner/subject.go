package planner

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"swarm/internal/rollout"
	"swarm/manager/planner/cluster"
)

// subject is what every pass reads: the service that is planned, and the time. planService sets its
// fields for each service. The passes change only one of them, the deadline of the timer: mayRun
// and the passes make the service due earlier with wakeAt and wakeIfFuture.
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

// wakeIfFuture makes the service due at the given time if that time is after now, and says whether
// it is.
func (t *timer) wakeIfFuture(at time.Time) bool {
	if !at.After(t.now) {
		return false
	}
	t.wakeAt(at)
	return true
}

// mayStart says whether task t of the slot may start. If t is nil, it answers for a task that this
// plan creates. A task may start if no other task of the slot may still run, except for its
// partner: the old task that keeps running while its replacement starts, in a start-first update.
// If partner is nil, there is none. A task that may not start yet stays READY.
func (p subject) mayStart(s *cluster.Slot, t, partner *cluster.Task) bool {
	return !slices.ContainsFunc(s.Tasks, func(o *cluster.Task) bool { return o != t && o != partner && p.mayRun(o) })
}

// mayRun says whether a container of the task may be running, as far as the cluster can know. A
// task on a lost node counts as not running. A single-writer task on a lost node counts as running
// unless its desired state is above RUNNING and the node is fenced. The fence alone is not enough:
// a fenced node that comes back gets a new lease together with the desired states of its tasks, and
// would run a task that is still wanted. If the time of the fence is known, mayRun makes the
// service due at that time.
func (p subject) mayRun(t *cluster.Task) bool {
	switch {
	case t.Ended() || t.Unplaced() || t.Node == nil:
		return false
	case !t.Node.Lost():
		return true
	case !t.Revision.Spec().GetSingleWriter():
		return false
	}
	if t.Wanted() {
		return true
	}
	fenced, at := p.state.Fenced(t.Node, p.now)
	if !at.IsZero() {
		p.wakeAt(at)
	}
	return !fenced
}
