package manager

import (
	"context"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

const (
	// votersPause is between two attempts to change the voters. It doubles up to votersPauseMax.
	votersPause    = 50 * time.Millisecond
	votersPauseMax = 2 * time.Second
	// raftAnswerTimeout bounds one question whether a new manager's Raft listener answers.
	raftAnswerTimeout = 2 * time.Second
)

// reconcileVoters keeps Raft's voters in line with the roles of nodes, one change at a time, until
// ctx ends. It looks when a node or its state has changed. While a new manager does not answer yet,
// or a former one cannot be removed yet, it tries again after growing pauses.
func (m *Manager) reconcileVoters(ctx context.Context) error {
	_, w := m.store.Watch(table.Node, table.NodeState)
	defer w.Close()
	for pause := votersPause; ; pause = min(2*pause, votersPauseMax) {
		until, cancel := ctx, context.CancelFunc(func() {})
		if !m.changeVoters(ctx, m.store.View()) {
			until, cancel = context.WithTimeout(ctx, pause)
		} else {
			pause = votersPause
		}
		_, err := w.Next(until)
		due := until.Err() != nil
		cancel()
		if ctx.Err() != nil || err != nil && !due {
			return err
		}
	}
}

// changeVoters makes the changes that are possible now. It reports whether all voters are as they
// should be.
func (m *Manager) changeVoters(ctx context.Context, view *table.View) (done bool) {
	if view.Cluster() == nil {
		return true // not bootstrapped yet
	}
	voters := make(map[string]bool)
	for _, s := range m.store.Servers() {
		voters[s.ID] = s.Voter
	}
	done = true
	for n := range view.Nodes.All() {
		if n.GetSpec().GetRole() == swarmv1.NodeSpec_MANAGER && !voters[n.GetId()] {
			done = m.addVoter(ctx, n.GetId()) && done
		}
	}
	for id := range voters {
		n, ok := view.Nodes.Get(id)
		if !ok || n.GetSpec().GetRole() != swarmv1.NodeSpec_MANAGER {
			done = m.removeVoter(ctx, id) && done
		}
	}
	return done
}

// addVoter makes a manager a voter once its Raft listener answers.
func (m *Manager) addVoter(ctx context.Context, id string) bool {
	if m.deps.RaftAnswers != nil {
		ask, cancel := context.WithTimeout(ctx, raftAnswerTimeout)
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

// removeVoter removes a former manager from Raft. The store refuses when too few of the others
// answer. This manager itself transfers the leadership instead, and the next leader removes it.
func (m *Manager) removeVoter(ctx context.Context, id string) bool {
	change, done := m.store.RemoveServer, "former manager removed from the voters"
	if id == m.cfg.NodeID {
		done = "former manager transferred the leadership"
		change = func(ctx context.Context, _ string) error { return m.store.TransferLeadership(ctx) }
	}
	if err := change(ctx, id); err != nil {
		m.log.Warn("a former manager keeps its vote for now", "node", id, "err", err)
		return false
	}
	m.log.Info(done, "node", id)
	return true
}
