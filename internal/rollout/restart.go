package rollout

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// RestartPolicy says whether and when a new task replaces a task that ended by itself.
// RestartPolicyOf makes one from a specification. The zero value allows every restart, without a
// delay.
type RestartPolicy struct {
	condition swarmv1.RestartPolicy_Condition
	delay     time.Duration
	attempts  uint64 // 0: no limit
	window    time.Duration
}

// The delay doubles with every consecutive failure of a slot. It grows to at most delayGrowth times
// the policy's delay, and to at most delayLimit; if the policy's delay is longer than delayLimit,
// it does not grow at all. A task that ran for at least delayReset times the delay ends the series
// of failures before it. The delay after a task that never ran is at least delayFloor, because
// doubling a delay of 0 has no effect.
const (
	delayGrowth = 16
	delayLimit  = 5 * time.Minute
	delayFloor  = time.Second
	delayReset  = 10
)

// RestartPolicyOf converts the policy of a task specification. A delay that is not set is
// spec.DefaultRestartDelay.
func RestartPolicyOf(p *swarmv1.RestartPolicy) RestartPolicy {
	r := RestartPolicy{
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

// Allows says whether another task may follow t, which ended at the given time. The answer does not
// depend on the current time, so a restart that was refused stays refused. The policy is that of
// the task's own revision.
func (p RestartPolicy) Allows(t Task, ended time.Time) bool {
	switch p.condition {
	case swarmv1.RestartPolicy_NONE:
		return false
	case swarmv1.RestartPolicy_ON_FAILURE:
		if t.Status.GetState() == swarmv1.TaskState_COMPLETE {
			return false
		}
	}
	if p.attempts == 0 {
		return true
	}
	h := t.Row.GetRestarts()
	if p.window == 0 {
		return h.GetAttempts() < p.attempts
	}
	return uint64(len(p.within(h, ended))) < p.attempts
}

// within returns the restarts in the policy's window that ends at the given time.
func (p RestartPolicy) within(h *swarmv1.RestartHistory, end time.Time) []*timestamppb.Timestamp {
	recent := h.GetRecent()
	for len(recent) > 0 && end.Sub(recent[0].AsTime()) > p.window {
		recent = recent[1:]
	}
	return recent
}

// Successor returns the restart history of the task that follows t, which ended by itself, and the
// time at which that task may start: now plus the delay.
func (p RestartPolicy) Successor(t Task, now time.Time) (*swarmv1.RestartHistory, time.Time) {
	h := &swarmv1.RestartHistory{Attempts: t.Row.GetRestarts().GetAttempts() + 1, Streak: p.streak(t)}
	if p.attempts > 0 && p.window > 0 {
		recent := p.within(t.Row.GetRestarts(), now)
		h.Recent = append(append(h.Recent, recent...), timestamppb.New(now))
		if over := len(h.Recent) - int(min(p.attempts, 1<<16)); over > 0 {
			h.Recent = h.Recent[over:]
		}
	}
	return h, now.Add(p.backoff(t, h.Streak))
}

// streak returns the number of consecutive failures up to and including t. It is 0 after a success,
// because people use such restarts as a schedule. It is also 0 if the policy counts restarts within
// a window, because a growing delay would keep the count below max_attempts for ever.
func (p RestartPolicy) streak(t Task) uint64 {
	before := t.Row.GetRestarts().GetStreak()
	d, ran := t.ranFor()
	switch {
	case !t.Failure(), p.attempts > 0 && p.window > 0:
		return 0
	case t.LacksImage():
		// Not a failure of the task: the planner tries the next node.
		return before
	case ran && d/delayReset >= p.delay:
		return 1
	}
	return before + 1
}

// backoff returns the delay before the task that follows t. streak is the number of consecutive
// failures.
func (p RestartPolicy) backoff(t Task, streak uint64) time.Duration {
	d := p.delay
	if t.Status.GetRunningSince() == nil {
		d = max(d, delayFloor)
	}
	limit := max(d, min(delayGrowth*min(d, delayLimit), delayLimit))
	for ; streak > 1 && d < limit; streak-- {
		d *= 2
	}
	return min(d, limit)
}
