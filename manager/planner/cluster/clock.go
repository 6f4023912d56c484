package cluster

import (
	"time"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Times in rows are by the clock of the manager that led when they were written. Plans use the
// clock of the manager that leads now, and the two may differ by any amount. A row that was written
// before this State existed is certain to be no newer than it, so no wait begins later than
// startedAt. Where versions tell the order, the planner compares versions instead of times.

// ClampTime returns a time from a row, at latest the time at which this leader started if an
// earlier leader may have written the row. m is the meta of the row.
func (p *State) ClampTime(at time.Time, m *swarmv1.Meta) time.Time {
	if m.GetVersion() <= p.startVersion && at.After(p.startedAt) {
		return p.startedAt
	}
	return at
}

// ReportedAt returns when the task's status was written. It does not use the worker's own time if
// it can, because clocks of hosts differ.
func (p *State) ReportedAt(t *Task) time.Time {
	if m := t.Status.GetMeta(); m.GetUpdatedAt() != nil {
		return p.ClampTime(m.GetUpdatedAt().AsTime(), m)
	}
	return timeOf(t.Status.GetTimestamp())
}

// StartAfter returns when the restart delay of the task ends. Zero: the task has none.
func (p *State) StartAfter(t *Task) time.Time {
	at := timeOf(t.Row.GetStartAfter())
	if at.IsZero() || t.Row.GetMeta().GetVersion() > p.startVersion {
		return at
	}
	// the two times are of one clock: they were written together
	delay := at.Sub(timeOf(t.Row.GetMeta().GetCreatedAt()))
	if latest := p.startedAt.Add(delay); at.After(latest) {
		return latest
	}
	return at
}

// Fenced says whether the lease of a lost node's single-writer tasks has expired, so that the shims
// have killed them. For a node with a row, the leader has set this in the node's state. A node that
// was removed may have renewed its lease until this leader saw the removal, so its lease counts
// from then. If the time at which such a node will be fenced is known, Fenced returns it as at.
func (p *State) Fenced(n *Node, now time.Time) (fenced bool, at time.Time) {
	switch {
	case !n.Removed():
		return n.State.GetFenced(), time.Time{}
	case n.removedAt.IsZero():
		return false, time.Time{}
	}
	at = n.removedAt.Add(max(n.lease, p.lease) + spec.FenceMargin)
	if at.After(now) {
		return false, at
	}
	return true, time.Time{}
}
