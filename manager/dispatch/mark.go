package dispatch

import (
	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// ref names something a session may have to send. Kinds of the wire's AssignmentRef, and some of our own.
type ref struct {
	kind swarmv1.AssignmentRef_Kind
	id   string
	of   string // a backend's service
}

const (
	// kindNode: the node's own row, the managers, the roots.
	kindNode swarmv1.AssignmentRef_Kind = -1
	// kindImages: which images the node is to keep.
	kindImages swarmv1.AssignmentRef_Kind = -2
	// kindState: whether the node is up.
	kindState swarmv1.AssignmentRef_Kind = -3
	// kindSegment: the services on a network, which the node has begun or ceased to carry.
	kindSegment swarmv1.AssignmentRef_Kind = -4
	// kindIngress: which network is ingress.
	kindIngress swarmv1.AssignmentRef_Kind = -5
)

// marks is what one batch of changes means for the sessions.
type marks struct {
	nodes  map[string][]ref  // for one node
	epochs map[string]uint64 // session epochs of nodes
	shared []ref             // for every node; each knows whether it concerns it
	gone   []string          // nodes that were removed
	images bool
}

func (m *marks) everyone() bool { return len(m.shared) > 0 }

func (m *marks) node(id string, r ref) {
	if id != "" {
		m.nodes[id] = append(m.nodes[id], r)
	}
}

// all marks something for every node.
func (m *marks) all(r ref) { m.shared = append(m.shared, r) }

func newMarks() *marks {
	return &marks{nodes: make(map[string][]ref), epochs: make(map[string]uint64)}
}

func marksOf(batch raftstore.Batch) *marks {
	m := newMarks()
	for _, c := range batch.Changes {
		m.add(c)
	}
	if m.images {
		m.shared = append(m.shared, ref{kind: kindImages})
	}
	return m
}

func (m *marks) add(c raftstore.RowChange) {
	switch c.Table {
	case raftstore.TableTask:
		before, _ := c.Old.(*swarmv1.Task)
		after, _ := c.New.(*swarmv1.Task)
		m.node(before.GetNodeId(), ref{kind: swarmv1.AssignmentRef_TASK, id: c.Key})
		if after.GetNodeId() != before.GetNodeId() {
			m.node(after.GetNodeId(), ref{kind: swarmv1.AssignmentRef_TASK, id: c.Key})
		}
	case raftstore.TableNode:
		before, _ := c.Old.(*swarmv1.Node)
		after, _ := c.New.(*swarmv1.Node)
		if c.New == nil {
			m.gone = append(m.gone, c.Key)
		} else {
			m.node(c.Key, ref{kind: kindNode})
		}
		if managerChanged(before, after) {
			m.shared = append(m.shared, ref{kind: kindNode})
		}
		m.images = true
	case raftstore.TableNodeState:
		before, _ := c.Old.(*swarmv1.NodeState)
		after, _ := c.New.(*swarmv1.NodeState)
		m.epochs[c.Key] = after.GetSessionEpoch()
		if before.GetState() != after.GetState() {
			m.images = true
			m.node(c.Key, ref{kind: kindState})
		}
	case raftstore.TableImage, raftstore.TableImageCopy:
		m.images = true
	case raftstore.TableCluster:
		m.shared = append(m.shared, ref{kind: kindNode}, ref{kind: swarmv1.AssignmentRef_KEY})
	case raftstore.TableNetwork:
		m.shared = append(m.shared, ref{kind: swarmv1.AssignmentRef_NETWORK, id: c.Key})
		if latest[*swarmv1.Network](c).GetSpec().GetIngress() {
			m.all(ref{kind: kindIngress})
		}
	case raftstore.TableEndpoint:
		m.shared = append(m.shared, ref{kind: swarmv1.AssignmentRef_ENDPOINT, id: c.Key})
	case raftstore.TableSecret:
		m.shared = append(m.shared, ref{kind: swarmv1.AssignmentRef_SECRET, id: c.Key})
	case raftstore.TableConfig:
		m.shared = append(m.shared, ref{kind: swarmv1.AssignmentRef_CONFIG, id: c.Key})
	}
}

// managerChanged reports whether the list of managers that every node has is no longer right.
func managerChanged(before, after *swarmv1.Node) bool {
	was := before.GetSpec().GetRole() == swarmv1.NodeSpec_MANAGER
	is := after.GetSpec().GetRole() == swarmv1.NodeSpec_MANAGER
	return was != is || is && (before.GetAddr() != after.GetAddr() || before.GetPort() != after.GetPort())
}

// present tells a row from the typed nil that stands for none.
func present[T any, P interface {
	*T
	proto.Message
}](row P, ok bool,
) (P, bool) {
	return row, ok && row != nil
}
