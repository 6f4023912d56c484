package assignment

import (
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

// Ref names something that may have to be sent to a node again. Its Kind is one of the protocol's
// AssignmentRef kinds, or one of the kinds below. Those exist only inside a manager. They are
// negative, so they never equal a kind of the protocol, which has none below 0.
type Ref struct {
	Kind swarmv1.AssignmentRef_Kind
	ID   string
	// Service is the service of a backend. It is empty for other kinds.
	Service string
}

const (
	// KindNode stands for a NodeUpdate message: the node's own row, the managers and the root
	// certificates. A SentSet ignores it: the session sends that message.
	KindNode swarmv1.AssignmentRef_Kind = -1
	// KindState says that the node's state has changed. A SentSet ignores it: the session looks
	// whether the node is down now.
	KindState swarmv1.AssignmentRef_Kind = -2
	// kindImages stands for the images that a node must keep a copy of.
	kindImages swarmv1.AssignmentRef_Kind = -3
	// kindAttachment says that a node has been attached to a network or detached from it. Then
	// other services concern the node. The ID is the network's.
	kindAttachment swarmv1.AssignmentRef_Kind = -4
	// kindIngress says that the network ingress has been made, changed or removed.
	kindIngress swarmv1.AssignmentRef_Kind = -5
)

// Dirty says what a batch of store changes may have made out of date, and on which nodes. It names
// objects and never holds their content, so a slow session gathers references and not old versions.
type Dirty struct {
	// ByNode has the references that concern one node, by node ID.
	ByNode map[string][]Ref
	// All has the references that every node must look at, although some do not concern it.
	All []Ref

	images bool // the choice of the nodes that keep images may have changed; only State.Apply reads it
}

func newDirty() *Dirty { return &Dirty{ByNode: make(map[string][]Ref)} }

// node adds a reference for one node. It ignores an empty ID, which a task without a node has.
func (d *Dirty) node(id string, r Ref) {
	if id != "" {
		d.ByNode[id] = append(d.ByNode[id], r)
	}
}

// all adds references for every node.
func (d *Dirty) all(refs ...Ref) { d.All = append(d.All, refs...) }

// dirtyOf returns the references that the changed rows name. The topology adds the others.
func dirtyOf(batch watch.Batch) *Dirty {
	d := newDirty()
	for _, c := range batch.Changes {
		d.add(c)
	}
	if d.images {
		d.all(Ref{Kind: kindImages})
	}
	return d
}

func (d *Dirty) add(c table.RowChange) {
	switch c.Table {
	case table.Task:
		before, _ := c.Old.(*swarmv1.Task)
		after, _ := c.New.(*swarmv1.Task)
		d.node(before.GetNodeId(), Ref{Kind: swarmv1.AssignmentRef_TASK, ID: c.Key})
		if after.GetNodeId() != before.GetNodeId() {
			d.node(after.GetNodeId(), Ref{Kind: swarmv1.AssignmentRef_TASK, ID: c.Key})
		}
	case table.Node:
		before, _ := c.Old.(*swarmv1.Node)
		after, _ := c.New.(*swarmv1.Node)
		if c.New != nil {
			d.node(c.Key, Ref{Kind: KindNode})
		}
		if managerChanged(before, after) {
			d.all(Ref{Kind: KindNode})
		}
		d.images = true
	case table.NodeState:
		before, _ := c.Old.(*swarmv1.NodeState)
		after, _ := c.New.(*swarmv1.NodeState)
		if before.GetState() != after.GetState() {
			d.images = true
			d.node(c.Key, Ref{Kind: KindState})
		}
	case table.Image, table.ImageCopy:
		d.images = true
	case table.Cluster:
		d.all(Ref{Kind: KindNode}, Ref{Kind: swarmv1.AssignmentRef_KEY})
	case table.Network:
		d.all(Ref{Kind: swarmv1.AssignmentRef_NETWORK, ID: c.Key})
		if latest[*swarmv1.Network](c).GetSpec().GetIngress() {
			d.all(Ref{Kind: kindIngress})
		}
	case table.Endpoint:
		d.all(Ref{Kind: swarmv1.AssignmentRef_ENDPOINT, ID: c.Key})
	case table.DataVersion:
		d.all(Ref{Kind: swarmv1.AssignmentRef_DATA_VERSION, ID: c.Key})
	case table.Volume:
		if row := latest[*swarmv1.Volume](c); row.GetNodeId() == "" {
			d.all(Ref{Kind: swarmv1.AssignmentRef_VOLUME, ID: row.GetName()})
		}
	}
}

// managerChanged reports whether the change of a node changes the list of managers, which every
// node has.
func managerChanged(before, after *swarmv1.Node) bool {
	was := before.GetSpec().GetRole() == swarmv1.NodeSpec_MANAGER
	is := after.GetSpec().GetRole() == swarmv1.NodeSpec_MANAGER
	return was != is || is && (before.GetAddr() != after.GetAddr() || before.GetPort() != after.GetPort())
}

// latest returns the row after a change, or the row before it when the change removed it.
func latest[T any](c table.RowChange) T {
	if row, ok := c.New.(T); ok && c.New != nil {
		return row
	}
	row, _ := c.Old.(T)
	return row
}
