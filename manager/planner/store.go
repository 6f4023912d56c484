package planner

import (
	"swarm/raftstore"
)

// Tables are those that a Picture is made of: what the caller has to watch.
func Tables() []raftstore.TableID {
	return []raftstore.TableID{
		raftstore.TableNode, raftstore.TableNodeState, raftstore.TableService, raftstore.TableRevision, raftstore.TableTask,
		raftstore.TableTaskStatus, raftstore.TableEndpoint, raftstore.TableClaim, raftstore.TableCluster,
		raftstore.TableImage, raftstore.TableImageCopy, raftstore.TableNetwork,
	}
}

// New makes the picture of a view. Every service is due.
func New(v *raftstore.View) *Picture {
	p := newPicture()
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

func load[T raftstore.Row](p *Picture, t raftstore.Table[T]) {
	for row := range t.All() {
		p.fold(nil, row)
	}
}

// Apply takes over what has changed, in the order in which the store says it. Rows of other tables are ignored.
func (p *Picture) Apply(changes []raftstore.RowChange) {
	for _, c := range changes {
		p.fold(c.Old, c.New)
	}
}
