package planner

import (
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

// Times in rows are by the clock of the manager that led when they were written, and plans are made by the clock of the one
// that leads now. Between the two a clock may jump by any amount. Of what was written before this picture it is certain only
// that it is not younger than the picture, so no wait begins later than that. Whatever can be told by versions is told by
// these.

// clip is a time that stands in a row, by this leader's clock.
func (p *Picture) clip(at time.Time, m *swarmv1.Meta) time.Time {
	if m.GetVersion() <= p.base && at.After(p.began) {
		return p.began
	}
	return at
}

// reportedAt is when the task's status was written. A worker's own time is not to be compared with others.
func (p *Picture) reportedAt(t *task) time.Time {
	if m := t.status.GetMeta(); m.GetUpdatedAt() != nil {
		return p.clip(m.GetUpdatedAt().AsTime(), m)
	}
	return instant(t.status.GetTimestamp())
}

// startAfter is when the restart delay of the task ends; zero: it has none.
func (p *Picture) startAfter(t *task) time.Time {
	at := instant(t.row.GetStartAfter())
	if at.IsZero() || t.row.GetMeta().GetVersion() > p.base {
		return at
	}
	delay := at.Sub(instant(t.row.GetMeta().GetCreatedAt())) // by one clock: both were written at once
	if latest := p.began.Add(delay); at.After(latest) {
		return latest
	}
	return at
}
