package cluster

import (
	"time"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Times in rows are by the clock of the manager that led when they were written. Plans use the
// clock of the manager that leads now, and the two may differ by any amount. A row with a version
// up to startVersion was written before startedAt. If the time in such a row is after startedAt,
// the clock of its writer was ahead. The planner then uses startedAt instead, so that the clock of
// the writer does not prolong a wait that is counted from the time in the row. Where versions tell
// the order, the planner compares versions instead of times.

// ClampTime returns at, the time in a row with the given meta. If an earlier leader may have
// written the row, it returns startedAt instead of a later time.
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
// from that moment. If the time at which such a node will be fenced is known, Fenced returns it as
// at.
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
