//go:build linux

package monitor

import (
	"context"
	"strings"

	"swarm/internal/metrics"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// Manager is the part of manager.Manager from which metrics are read.
type Manager interface {
	// Sessions is the number of workers connected to this manager.
	Sessions() int
	// WrongTokens counts the calls that this manager refused because they proved no join token.
	WrongTokens() uint64
}

// AddManager adds the metrics of a manager, until the caller calls remove: its state in Raft and
// its sessions, and on the leader also the numbers of nodes, tasks and services.
func (m *Monitor) AddManager(manager Manager, store *raftstore.Store) (remove func()) {
	f := m.families
	return m.Add(func(_ context.Context, emit metrics.Emit) error {
		s := store.Status()
		emit(f.leads, boolean(s.Leads))
		emit(f.hasLeader, boolean(s.HasLeader))
		emit(f.term, float64(s.Term))
		emit(f.last, float64(s.Last))
		emit(f.committed, float64(s.Committed))
		emit(f.applied, float64(s.Applied))
		emit(f.voters, float64(s.Voters))
		emit(f.sessions, float64(manager.Sessions()))
		emit(f.badTokens, float64(manager.WrongTokens()))
		if s.Leads {
			f.cluster(store.View(), emit)
		}
		return nil
	})
}

// cluster emits the numbers of the cluster's objects.
func (f *families) cluster(v *table.View, emit metrics.Emit) {
	nodes, tasks := map[swarmv1.NodeState_State]int{}, map[swarmv1.TaskState]int{}
	for n := range v.Nodes.All() {
		state, _ := v.NodeStates.Get(n.GetId())
		nodes[state.GetState()]++
	}
	for t := range v.Tasks.All() {
		tasks[v.Status(t.GetId()).GetState()]++
	}
	for state, n := range nodes {
		emit(f.nodes, float64(n), strings.ToLower(state.String()))
	}
	for state, n := range tasks {
		emit(f.tasks, float64(n), strings.ToLower(state.String()))
	}
	emit(f.services, float64(v.Services.Len()))
}
