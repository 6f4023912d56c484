package cluster

import (
	"swarm/raftstore/table"
)

// Tables returns the tables that State reads. The caller must watch these tables.
func Tables() []table.ID {
	return []table.ID{
		table.Node, table.NodeState, table.Service, table.Revision, table.Task,
		table.TaskStatus, table.Endpoint, table.Claim, table.Cluster,
		table.Image, table.ImageCopy, table.Network,
	}
}

// New returns the State of a view. Every service in it is due.
func New(v *table.View) *State {
	p := newState()
	load(p, v.Clusters)
	load(p, v.Nodes)
	load(p, v.NodeStates)
	load(p, v.Services)
	load(p, v.Revisions)
	load(p, v.Tasks)
	load(p, v.Statuses)
	load(p, v.Endpoints)
	load(p, v.Claims)
	load(p, v.Networks)
	load(p, v.Images)
	load(p, v.ImageCopies)
	return p
}

func load[T table.Row](p *State, t table.Rows[T]) {
	for row := range t.All() {
		p.fold(nil, row)
	}
}

// Apply folds changes into the state. The caller passes them in the order in which the store
// committed them. Apply ignores rows of tables that are not in Tables.
func (p *State) Apply(changes []table.RowChange) {
	for _, c := range changes {
		p.fold(c.Old, c.New)
	}
}
