package assignment

import (
	"sync/atomic"

	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

// Tables returns the tables whose changes a State needs.
func Tables() []table.ID {
	return []table.ID{
		table.Node, table.NodeState, table.Task, table.Network, table.Endpoint,
		table.Secret, table.Config, table.Image, table.ImageCopy, table.Cluster,
		table.Service, table.TaskStatus, table.Claim,
	}
}

// State is what one manager derives from its replica for all nodes: the topology, and which node
// keeps a copy of which image. One goroutine calls Load and Apply; any number of SentSets may read
// at the same time.
type State struct {
	topology *topology
	images   atomic.Pointer[imageNodes]
}

// NewState returns the State of an empty cluster.
func NewState() *State {
	s := &State{topology: newTopology()}
	s.images.Store(&imageNodes{})
	return s
}

// Load starts again from a view. Every node needs a complete set afterwards.
func (s *State) Load(view *table.View) {
	s.images.Store(imageNodesOf(view))
	s.topology.load(view)
}

// Apply applies a batch of changes. It returns which objects must be compared again for which
// nodes.
func (s *State) Apply(batch watch.Batch) *Dirty {
	d := dirtyOf(batch)
	s.topology.apply(d, batch)
	if d.images {
		s.images.Store(imageNodesOf(batch.View))
	}
	return d
}
