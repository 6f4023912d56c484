package manager

import (
	"context"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

const (
	// votersPause is the pause between two attempts to change the voters. It doubles after every
	// attempt that leaves something to change, up to votersPauseMax.
	votersPause    = 50 * time.Millisecond
	votersPauseMax = 2 * time.Second
	// raftAnswerTimeout limits one check whether the Raft listener of a new manager answers.
	raftAnswerTimeout = 2 * time.Second
)

// reconcileVoters is a duty of the leader. It keeps Raft's voters in line with the roles of nodes
// until ctx ends. It acts when a node or its state has changed. While a new manager does not answer
// yet, or a former manager cannot be removed yet, it tries again after growing pauses.
func (m *Manager) reconcileVoters(ctx context.Context) error {
	_, w := m.store.Watch(table.Node, table.NodeState)
	defer w.Close()
	wait := votersPause
	for {
		var err error
		if m.changeVoters(ctx, m.store.View()) {
			wait = votersPause
			_, err = w.Next(ctx)
		} else {
			_, err = w.NextBefore(ctx, time.Now().Add(wait))
			wait = min(2*wait, votersPauseMax)
		}
		if err != nil {
			return err
		}
	}
}

// changeVoters makes the changes of voters that are possible now. It returns true if no change is
// left for another attempt.
func (m *Manager) changeVoters(ctx context.Context, view *table.View) (done bool) {
	if view.Cluster() == nil {
		return true // The rows of the new cluster are not committed yet.
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

// addVoter makes a manager a voter if its Raft listener answers. It returns false if the manager
// does not vote yet.
func (m *Manager) addVoter(ctx context.Context, id string) bool {
	if m.deps.RaftAnswers != nil {
		bounded, cancel := context.WithTimeout(ctx, raftAnswerTimeout)
		err := m.deps.RaftAnswers(bounded, id)
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

// removeVoter removes a former manager from Raft. It returns false if the former manager keeps its
// vote for now: the store refuses the removal if too few of the other managers answer.
//
// If this leader itself is the former manager, removeVoter only transfers the leadership, and the
// next leader's reconcileVoters removes the vote. Store.RemoveServer could not do both here: after
// the transfer it asks the next leader for the removal, but ctx ends with this leadership.
func (m *Manager) removeVoter(ctx context.Context, id string) bool {
	var err error
	done := "former manager removed from the voters"
	if id == m.cfg.NodeID {
		done = "former manager transferred the leadership"
		err = m.store.TransferLeadership(ctx)
	} else {
		err = m.store.RemoveServer(ctx, id)
	}
	if err != nil {
		m.log.Warn("a former manager keeps its vote for now", "node", id, "err", err)
		return false
	}
	m.log.Info(done, "node", id)
	return true
}
