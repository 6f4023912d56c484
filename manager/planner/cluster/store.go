package cluster

import "swarm/raftstore/table"

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
	load(state, v.Volumes)
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
// committed them. Of rows of tables that New does not read, Apply notes only the version.
func (state *State) Apply(changes []table.RowChange) {
	for _, c := range changes {
		state.fold(c.Old, c.New)
	}
}
