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
	// immediateReplans is how often in a row a rejected plan is made again without a pause. The
	// store usually rejects a plan because of another write, which the next plan takes into
	// account.
	immediateReplans = 2
	// replanPause is the pause after the first rejected plan beyond immediateReplans. The pause
	// doubles with every further rejected plan, up to replanPauseMax. A change in the store ends it
	// early.
	replanPause    = 10 * time.Millisecond
	replanPauseMax = 640 * time.Millisecond
)

// planLoop runs one planner against the store. One goroutine uses it.
type planLoop struct {
	m        *Manager
	state    *cluster.State // what the planner plans from
	planner  *planner.Planner
	watcher  *watch.Watcher
	rejected int // plans in a row of which the store accepted no group
}

// plan is a duty of the leader. It runs the planner when something has changed or is due, and
// writes the changes that the planner returns, until ctx ends.
func (m *Manager) plan(ctx context.Context) error {
	view, w := m.store.Watch()
	defer w.Close()
	state := cluster.New(view)
	l := &planLoop{m: m, state: state, planner: planner.New(state), watcher: w}
	for {
		now := time.Now()
		res := l.planner.Plan(l.state.Due(now), now)
		var err error
		if len(res.Groups) > 0 {
			err = l.commit(ctx, res.Groups)
		} else {
			err = l.wait(ctx, res.Next)
		}
		if err != nil {
			return err
		}
	}
}

// wait waits for the next changes in the store, and adds them to the planner's state. It returns
// without changes at the time next, unless next is zero.
func (l *planLoop) wait(ctx context.Context, next time.Time) error {
	batch, err := l.watcher.NextBefore(ctx, next)
	l.state.Apply(batch.Changes)
	return err
}

// commit writes a plan. It returns once the planner's state has the result, because the next plan
// must start from it.
func (l *planLoop) commit(ctx context.Context, groups []planner.Group) error {
	list := make([]*swarmv1.Group, len(groups))
	for i, g := range groups {
		list[i] = g.Proto()
	}
	index, results, err := l.m.store.CommitGroups(ctx, "planner", list)
	if err != nil {
		return err
	}
	var rejection error
	for i, r := range results {
		if r != nil {
			rejection = r
			l.state.Retry(groups[i].Service)
		}
	}
	batch, err := l.watcher.CatchUp(ctx, index)
	if err != nil {
		return err
	}
	l.state.Apply(batch.Changes)
	if rejection == nil || slices.Contains(results, nil) {
		l.rejected = 0
		return nil
	}
	l.rejected++
	if l.rejected <= immediateReplans {
		return nil
	}
	l.m.log.Warn("the store rejected a plan", "index", index, "err", rejection)
	doublings := min(l.rejected-immediateReplans-1, 10)
	return l.wait(ctx, time.Now().Add(min(replanPause<<doublings, replanPauseMax)))
}
