package manager

import (
	"context"
	"time"

	"swarm/manager/planner"
	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

const (
	// planPause is the first pause after a plan that met only refusals; it doubles up to planPauses times. A refusal that
	// is due to a change on its way is over when that change has arrived, so the first ones wait for nothing.
	planPause  = 5 * time.Millisecond
	planPauses = 7
	planFree   = 2
)

// plans is the loop that plans from one cluster.State.
type plans struct {
	m       *Manager
	state   *cluster.State
	planner *planner.Planner
	watcher *raftstore.Watcher
	refused int // plans in a row of which nothing was accepted
}

// plan keeps the planner at work: it looks when something has changed or is due, and writes what follows.
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

// wait returns when something has changed or is due.
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

// commit writes a plan and takes in what came of it: the next plan must see it.
func (p *plans) commit(ctx context.Context, groups []planner.Group) error {
	list := make([]*swarmv1.Group, len(groups))
	for i, g := range groups {
		list[i] = g.Proto()
	}
	index, results, err := p.m.store.CommitGroups(ctx, "planner", list)
	if err != nil {
		return err
	}
	var refusal error
	for i, r := range results {
		if r != nil {
			refusal = r
			p.state.Retry(groups[i].Service)
		}
	}
	batch, err := p.watcher.CatchUp(ctx, index)
	if err != nil {
		return err
	}
	p.state.Apply(batch.Changes)
	if refusal == nil || len(refusals(results)) < len(results) {
		p.refused = 0
		return nil
	}
	p.refused++
	if p.refused > planFree {
		p.m.log.Warn("plan was refused", "index", index, "err", refusal)
		return p.pause(ctx, planPause<<min(p.refused-planFree, planPauses))
	}
	return nil
}

func refusals(results []error) (out []error) {
	for _, r := range results {
		if r != nil {
			out = append(out, r)
		}
	}
	return out
}

// pause waits for changes, but not for long.
func (p *plans) pause(ctx context.Context, d time.Duration) error {
	return p.wait(ctx, time.Now().Add(d))
}
