package manager

import (
	"context"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

const (
	// A manager that does not answer yet is asked again after seatPause, then more and more rarely.
	seatPause    = 50 * time.Millisecond
	seatPauseMax = 2 * time.Second
	seatPatience = 2 * time.Second
)

// seats keeps Raft's voters in line with the roles of nodes, one change at a time. It looks when a node or its state has
// changed, and asks again, more and more rarely, while a new manager does not answer yet or a former one cannot be spared.
func (m *Manager) seats(ctx context.Context) error {
	_, w := m.store.Watch(raftstore.TableNode, raftstore.TableNodeState)
	defer w.Close()
	for pause := seatPause; ; pause = min(2*pause, seatPauseMax) {
		until, cancel := ctx, context.CancelFunc(func() {})
		if !m.seat(ctx, m.store.View()) {
			until, cancel = context.WithTimeout(ctx, pause)
		} else {
			pause = seatPause
		}
		_, err := w.Next(until)
		due := until.Err() != nil
		cancel()
		if ctx.Err() != nil || err != nil && !due {
			return err
		}
	}
}

// seat makes what changes it can, and tells whether all voters are as they should be.
func (m *Manager) seat(ctx context.Context, view *raftstore.View) (settled bool) {
	if view.Cluster() == nil {
		return true // not founded yet
	}
	voters := make(map[string]bool)
	for _, s := range m.store.Servers() {
		voters[s.ID] = s.Voter
	}
	settled = true
	for n := range view.Nodes.All() {
		if n.GetSpec().GetRole() == swarmv1.NodeSpec_MANAGER && !voters[n.GetId()] {
			settled = m.addVoter(ctx, n.GetId()) && settled
		}
	}
	for id := range voters {
		n, ok := view.Nodes.Get(id)
		if !ok || n.GetSpec().GetRole() != swarmv1.NodeSpec_MANAGER {
			settled = m.unseat(ctx, id) && settled
		}
	}
	return settled
}

// addVoter gives a manager its vote once its Raft listener answers.
func (m *Manager) addVoter(ctx context.Context, id string) bool {
	if m.deps.RaftAnswers != nil {
		ask, cancel := context.WithTimeout(ctx, seatPatience)
		err := m.deps.RaftAnswers(ask, id)
		cancel()
		if err != nil {
			m.log.Debug("manager does not answer yet", "node", id, "err", err)
			return false
		}
	}
	if err := m.store.AddVoter(ctx, id); err != nil {
		m.log.Debug("manager does not vote yet", "node", id, "err", err)
		return false
	}
	m.log.Info("manager votes", "node", id)
	return true
}

// unseat takes a former manager's vote away; the store refuses when too few of the others answer. The leader hands over
// before it goes: the next leader takes its vote.
func (m *Manager) unseat(ctx context.Context, id string) bool {
	change := m.store.RemoveServer
	if id == m.cfg.NodeID {
		change = func(ctx context.Context, _ string) error { return m.store.TransferLeadership(ctx) }
	}
	if err := change(ctx, id); err != nil {
		m.log.Warn("a former manager keeps its vote for now", "node", id, "err", err)
		return false
	}
	m.log.Info("former manager gives up its seat", "node", id)
	return true
}
