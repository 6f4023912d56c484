package cluster

import (
	"swarm/raftstore/table"
)

// Tables returns the tables that State reads. A caller that plans again after each change watches
// these tables.
func Tables() []table.ID {
	return []table.ID{
		table.Node, table.NodeState, table.Service, table.Revision, table.Task,
		table.TaskStatus, table.Endpoint, table.Claim, table.Cluster,
		table.Image, table.ImageCopy, table.Network,
	}
}

// New returns the State of a view. Every service in it is due.
func New(v *table.View) *State {
	state := newState()
	load(state, v.Clusters)
	load(state, v.Nodes)
	load(state, v.NodeStates)
	load(state, v.Services)
	load(state, v.Revisions)
	load(state, v.Tasks)
	load(state, v.Statuses)
	load(state, v.Endpoints)
	load(state, v.Claims)
	load(state, v.Networks)
	load(state, v.Images)
	load(state, v.ImageCopies)
	return state
}

func load[T table.Row](state *State, t table.Rows[T]) {
	for row := range t.All() {
		state.fold(nil, row)
	}
}

// Apply folds changes into the state. The caller passes them in the order in which the store
// committed them. Apply ignores rows of tables that are not in Tables.
func (state *State) Apply(changes []table.RowChange) {
	for _, c := range changes {
		state.fold(c.Old, c.New)
	}
}
