package cluster

import (
	"time"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// The leader writes the times in rows by its own clock. After a change of the leader, the planner
// compares such times with the clock of the new leader, which may differ by any amount. A row with
// a version up to startVersion was written before startedAt. If the time in such a row is after
// startedAt, the clock of the former leader was ahead, and the planner uses startedAt instead.
// Without this, a wait that counts from the time in the row would take too long. Where versions
// tell the order of two writes, the planner compares versions and not times.

// ClampTime returns at, the time in a row with the given meta. If a former leader may have written
// the row and at is after startedAt, it returns startedAt.
func (state *State) ClampTime(at time.Time, m *swarmv1.Meta) time.Time {
	if m.GetVersion() <= state.startVersion && at.After(state.startedAt) {
		return state.startedAt
	}
	return at
}

// ReportedAt returns when a leader wrote the task's status. It uses the worker's time only if the
// status has no time of a leader.
func (state *State) ReportedAt(t *Task) time.Time {
	if m := t.Status.GetMeta(); m.GetUpdatedAt() != nil {
		return state.ClampTime(m.GetUpdatedAt().AsTime(), m)
	}
	return timeOf(t.Status.GetTimestamp())
}

// StartAfter returns when the restart delay of the task ends. Zero: the task has none.
func (state *State) StartAfter(t *Task) time.Time {
	at := timeOf(t.Row.GetStartAfter())
	if at.IsZero() || t.Row.GetMeta().GetVersion() > state.startVersion {
		return at
	}
	// Both times are by one clock, because they were written together.
	delay := at.Sub(timeOf(t.Row.GetMeta().GetCreatedAt()))
	if latest := state.startedAt.Add(delay); at.After(latest) {
		return latest
	}
	return at
}

// Fenced says whether the lease of a lost node's single-writer tasks has expired, so that the shims
// have killed them. For a node with a row, the leader has set this in the node's state. A node that
// was removed may have renewed its lease until this leader saw the removal, so its lease counts
// from that moment. If that lease has not expired yet, at is when it will.
func (state *State) Fenced(n *Node, now time.Time) (fenced bool, at time.Time) {
	switch {
	case !n.Removed():
		return n.State.GetFenced(), time.Time{}
	case n.removedAt.IsZero():
		return false, time.Time{}
	}
	at = n.removedAt.Add(max(n.lease, state.lease) + spec.FenceMargin)
	if at.After(now) {
		return false, at
	}
	return true, time.Time{}
}
