package manager

import (
	"context"
	"slices"
	"time"

	"swarm/manager/planner"
	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/watch"
)

const (
	// planPause is the first pause after a plan of which every group was rejected. It doubles up to
	// planPauses times. The first plansAtOnce such plans are followed at once by another one: the
	// reason is usually another write, which the next plan takes into account.
	planPause   = 5 * time.Millisecond
	planPauses  = 7
	plansAtOnce = 2
)

// plans runs one planner against the store. One goroutine uses it.
type plans struct {
	m        *Manager
	state    *cluster.State
	planner  *planner.Planner
	watcher  *watch.Watcher
	rejected int // plans in a row of which no group was accepted
}

// plan runs the planner when something has changed or is due, and writes its changes, until ctx
// ends.
func (m *Manager) plan(ctx context.Context) error {
	view, w := m.store.Watch()
	defer w.Close()
	state := cluster.New(view)
	p := &plans{m: m, state: state, planner: planner.New(state), watcher: w}
	for {
		now := time.Now()
		res := p.planner.Plan(p.state.Due(now), now)
		if len(res.Groups) > 0 {
			if err := p.commit(ctx, res.Groups); err != nil {
				return err
			}
			continue
		}
		if err := p.wait(ctx, res.Next); err != nil {
			return err
		}
	}
}

// wait returns when something has changed, which it adds to the planner's state, or at next unless
// it is zero.
func (p *plans) wait(ctx context.Context, next time.Time) error {
	until := ctx
	if !next.IsZero() {
		var cancel context.CancelFunc
		until, cancel = context.WithDeadline(ctx, next)
		defer cancel()
	}
	batch, err := p.watcher.Next(until)
	if err != nil {
		if ctx.Err() == nil && until.Err() != nil {
			return nil // due
		}
		return err
	}
	p.state.Apply(batch.Changes)
	return nil
}

// commit writes a plan. It returns once the planner's state has the result, because the next plan
// must start from it.
func (p *plans) commit(ctx context.Context, groups []planner.Group) error {
	list := make([]*swarmv1.Group, len(groups))
	for i, g := range groups {
		list[i] = g.Proto()
	}
	index, results, err := p.m.store.CommitGroups(ctx, "planner", list)
	if err != nil {
		return err
	}
	var rejection error
	for i, r := range results {
		if r != nil {
			rejection = r
			p.state.Retry(groups[i].Service)
		}
	}
	batch, err := p.watcher.CatchUp(ctx, index)
	if err != nil {
		return err
	}
	p.state.Apply(batch.Changes)
	if rejection == nil || slices.Contains(results, nil) {
		p.rejected = 0
		return nil
	}
	p.rejected++
	if p.rejected > plansAtOnce {
		p.m.log.Warn("the store rejected a plan", "index", index, "err", rejection)
		return p.pause(ctx, planPause<<min(p.rejected-plansAtOnce, planPauses))
	}
	return nil
}

// pause waits for changes, for at most d.
func (p *plans) pause(ctx context.Context, d time.Duration) error {
	return p.wait(ctx, time.Now().Add(d))
}
