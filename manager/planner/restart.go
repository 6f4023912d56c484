package planner

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// restartPolicy says whether and when a task that ended by itself is followed by another.
type restartPolicy struct {
	condition swarmv1.RestartPolicy_Condition
	delay     time.Duration
	attempts  uint64 // 0: no limit
	window    time.Duration
}

// The delay doubles with every failure of a slot in a row, up to so many times itself and to a time at which nobody waits
// any more for the next attempt; a longer delay that the user asked for stays as it is. A task that ran for so many times
// the delay begins anew. What never ran waits for the floor at least, or a delay of 0 would be no delay.
const (
	delayGrowth = 16
	delayLimit  = 5 * time.Minute
	delayFloor  = time.Second
	delayReset  = 10
)

func restartPolicyOf(p *swarmv1.RestartPolicy) restartPolicy {
	r := restartPolicy{
		condition: p.GetCondition(),
		delay:     spec.DefaultRestartDelay,
		attempts:  p.GetMaxAttempts(),
		window:    p.GetWindow().AsDuration(),
	}
	if p.GetDelay() != nil {
		r.delay = p.GetDelay().AsDuration()
	}
	return r
}

// allows says whether the task that ended at a time may be followed by another. It does not look at the clock: an attempt
// refused once stays refused.
func (p restartPolicy) allows(t *task, ended time.Time) bool {
	switch p.condition {
	case swarmv1.RestartPolicy_NONE:
		return false
	case swarmv1.RestartPolicy_ON_FAILURE:
		if t.state() == swarmv1.TaskState_COMPLETE {
			return false
		}
	}
	if p.attempts == 0 {
		return true
	}
	h := t.row.GetRestarts()
	if p.window == 0 {
		return h.GetAttempts() < p.attempts
	}
	return uint64(len(p.within(h, ended))) < p.attempts
}

// within returns the restarts of the window that ends at the given time.
func (p restartPolicy) within(h *swarmv1.RestartHistory, end time.Time) []*timestamppb.Timestamp {
	recent := h.GetRecent()
	for len(recent) > 0 && end.Sub(recent[0].AsTime()) > p.window {
		recent = recent[1:]
	}
	return recent
}

// next is the history of the task that follows t, and when it may start.
func (p restartPolicy) next(t *task, now time.Time) (*swarmv1.RestartHistory, time.Time) {
	h := &swarmv1.RestartHistory{Attempts: t.row.GetRestarts().GetAttempts() + 1, Streak: p.streak(t)}
	if p.attempts > 0 && p.window > 0 {
		recent := p.within(t.row.GetRestarts(), now)
		h.Recent = append(append(h.Recent, recent...), timestamppb.New(now))
		if over := len(h.Recent) - int(min(p.attempts, 1<<16)); over > 0 {
			h.Recent = h.Recent[over:]
		}
	}
	return h, now.Add(p.pause(t, h.Streak))
}

// streak is how many failures in a row end with that of t. Success is none: restarts after it are a schedule. Neither does
// the delay grow where the policy counts restarts within a window: they would never come so close as to reach its limit.
func (p restartPolicy) streak(t *task) uint64 {
	before := t.row.GetRestarts().GetStreak()
	switch {
	case !t.failure(), p.attempts > 0 && p.window > 0:
		return 0
	case lacksImage(t):
		return before // every node is tried once: see lacking
	case t.status.GetRunningSince() != nil && instant(t.status.GetTimestamp()).Sub(instant(t.status.GetRunningSince()))/delayReset >= p.delay:
		return 1
	}
	return before + 1
}

// pause is how long the slot waits after t, which ended a streak.
func (p restartPolicy) pause(t *task, streak uint64) time.Duration {
	d := p.delay
	if t.status.GetRunningSince() == nil {
		d = max(d, delayFloor)
	}
	limit := max(d, min(delayGrowth*min(d, delayLimit), delayLimit))
	for ; streak > 1 && d < limit; streak-- {
		d *= 2
	}
	return min(d, limit)
}
