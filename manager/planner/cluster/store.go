package cluster

import (
	"swarm/raftstore"
)

// Tables returns the tables that State reads. The caller must watch these tables.
func Tables() []raftstore.TableID {
	return []raftstore.TableID{
		raftstore.TableNode, raftstore.TableNodeState, raftstore.TableService, raftstore.TableRevision, raftstore.TableTask,
		raftstore.TableTaskStatus, raftstore.TableEndpoint, raftstore.TableClaim, raftstore.TableCluster,
		raftstore.TableImage, raftstore.TableImageCopy, raftstore.TableNetwork,
	}
}

// New returns the State of a view. Every service in it is due.
func New(v *raftstore.View) *State {
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

func load[T raftstore.Row](p *State, t raftstore.Table[T]) {
	for row := range t.All() {
		p.fold(nil, row)
	}
}

// Apply folds changes into the state. The caller passes them in the order in which the store
// committed them. Apply ignores rows of tables that are not in Tables.
func (p *State) Apply(changes []raftstore.RowChange) {
	for _, c := range changes {
		p.fold(c.Old, c.New)
	}
}
