package planner

import (
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

// Times in rows are by the clock of the manager that led when they were written. Plans use the
// clock of the manager that leads now, and the two may differ by any amount. A row that was written
// before this State existed is certain to be no newer than it, so no wait begins later than
// startedAt. Where versions tell the order, the planner compares versions instead of times.

// clampTime returns a time from a row, at latest the time at which this leader started if an
// earlier leader may have written the row. m is the meta of the row.
func (p *State) clampTime(at time.Time, m *swarmv1.Meta) time.Time {
	if m.GetVersion() <= p.startVersion && at.After(p.startedAt) {
		return p.startedAt
	}
	return at
}

// reportedAt returns when the task's status was written. It does not use the worker's own time if
// it can, because clocks of hosts differ.
func (p *State) reportedAt(t *task) time.Time {
	if m := t.status.GetMeta(); m.GetUpdatedAt() != nil {
		return p.clampTime(m.GetUpdatedAt().AsTime(), m)
	}
	return timeOf(t.status.GetTimestamp())
}

// startAfter returns when the restart delay of the task ends. Zero: the task has none.
func (p *State) startAfter(t *task) time.Time {
	at := timeOf(t.row.GetStartAfter())
	if at.IsZero() || t.row.GetMeta().GetVersion() > p.startVersion {
		return at
	}
	// the two times are of one clock: they were written together
	delay := at.Sub(timeOf(t.row.GetMeta().GetCreatedAt()))
	if latest := p.startedAt.Add(delay); at.After(latest) {
		return latest
	}
	return at
}
