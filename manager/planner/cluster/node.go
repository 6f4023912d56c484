package cluster

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"swarm/internal/members"
	"swarm/internal/publish"
	swarmv1 "swarm/proto/swarm/v1"
)

// Node is one node: its rows, its capacity, and what tasks have reserved of it.
type Node struct {
	ID    string
	Row   *swarmv1.Node      // nil: deleted, or not arrived yet
	State *swarmv1.NodeState // nil: deleted, or not arrived yet
	Class *Class             // nil if Row is nil
	// classIndex is the node's index in Class.Nodes.
	classIndex int
	// Availability says whether the node takes new tasks of any service.
	Availability Availability
	Index        int // index in State.Nodes; placement breaks ties by the lower index

	capacity Resources
	reserved Resources
	// TaskCount is how many tasks should run on the node and have not ended.
	TaskCount int
	// taskRows counts the task rows that name the node, by service, whatever the tasks' state.
	taskRows map[*Service]int32
	// ports holds the keys of the claimed host ports, with an empty NodeID. nil: no port is
	// claimed.
	ports map[publish.Key]struct{}
	// lease is the lease in the node's last NodeState row. It stays after the row is deleted.
	lease time.Duration
	// removedAt is when Due first saw the node without a row. Zero: the node has a row, or Due has
	// not run since its row was deleted.
	removedAt time.Time
}

// Availability says whether a node takes new tasks, and if not, why.
type Availability uint8

const (
	// Available: the node takes new tasks.
	Available Availability = iota
	// Down: the node has no row, or its state is not READY.
	Down
	// Inactive: the user has paused or drained the node.
	Inactive
	// Unavailable: the node has reported that it can run no tasks.
	Unavailable
)

func (n *Node) checkAvailability() Availability {
	switch {
	case n.Row == nil || n.State.GetState() != swarmv1.NodeState_READY:
		return Down
	case n.Row.GetSpec().GetAvailability() != swarmv1.NodeSpec_ACTIVE:
		return Inactive
	case n.State.GetDescription().GetUnavailable() != "":
		return Unavailable
	}
	return Available
}

// ensureNode returns the entry of a node, and adds one without a row if there is none.
func (state *State) ensureNode(id string) *Node {
	n := state.nodes[id]
	if n == nil {
		n = &Node{ID: id, taskRows: map[*Service]int32{}}
		state.nodes[id] = n
		state.unregistered[n] = struct{}{}
	}
	return n
}

// foldNode applies the change of a node row. set stores the row in the entry.
func (state *State) foldNode(id string, deleted bool, set func(*Node)) {
	n := state.ensureNode(id)
	had := n.Row != nil
	if deleted {
		n.Row = nil
		state.unregistered[n] = struct{}{}
	} else {
		set(n)
		n.removedAt = time.Time{}
		delete(state.unregistered, n)
	}
	if had != (n.Row != nil) {
		state.orderStale, state.ingressDirty = true, true
	}
	state.refreshNode(n)
	state.forgetNode(n)
}

// forgetNode drops the entry of a node that no row names any more.
func (state *State) forgetNode(n *Node) {
	if n != nil && n.Row == nil && n.State == nil && len(n.taskRows) == 0 && len(n.ports) == 0 {
		delete(state.nodes, n.ID)
		delete(state.unregistered, n)
	}
}

// foldNodeState applies the change of a NodeState row.
func (state *State) foldNodeState(s *swarmv1.NodeState, deleted bool) {
	n := state.ensureNode(s.GetNodeId())
	old := n.State
	if deleted {
		n.State = nil
	} else {
		n.State, n.lease = s, s.GetLease().AsDuration()
	}
	if members.NeverReported(old) && !members.NeverReported(n.State) {
		state.ingressDirty = true
	}
	if old != nil && !deleted && old.GetState() == s.GetState() && old.GetFenced() == s.GetFenced() && proto.Equal(old.GetDescription(), s.GetDescription()) {
		return // Only the session is new. Nothing that planning depends on has changed.
	}
	state.refreshNode(n)
	state.forgetNode(n)
}

// refreshNode computes again what depends on the node's rows. It makes all services due that the
// change may concern: those with tasks on the node, those with tasks that have no node, and global
// services.
func (state *State) refreshNode(n *Node) {
	n.capacity = resourcesOf(n.State.GetDescription().GetResources())
	state.setClass(n)
	n.Availability = n.checkAvailability()
	state.retryWaiting = true
	for s := range n.taskRows {
		state.markDirty(s)
	}
	for _, s := range state.services {
		if s.Global() {
			state.markDirty(s)
		}
	}
}

// sortNodes sorts nodeOrder again if a node was added or removed.
func (state *State) sortNodes() {
	if !state.orderStale {
		return
	}
	state.nodeOrder = state.nodeOrder[:0]
	for _, n := range state.nodes {
		if n.Row != nil {
			state.nodeOrder = append(state.nodeOrder, n)
		}
	}
	slices.SortFunc(state.nodeOrder, func(a, b *Node) int { return cmp.Compare(a.ID, b.ID) })
	for i, n := range state.nodeOrder {
		n.Index = i
	}
	state.orderStale = false
}

// Name returns the node's name for users: its configured name, its host name or its id.
func (n *Node) Name() string {
	switch {
	case n.Row.GetSpec().GetName() != "":
		return n.Row.GetSpec().GetName()
	case n.Hostname() != "":
		return n.Hostname()
	}
	return n.ID
}

// Hostname returns the name with which the node joined, even if the host has been renamed since.
// Constraints on the host name may decide which nodes get secrets, so a node must not be able to
// change it.
func (n *Node) Hostname() string { return n.Row.GetHostname() }

// Removed says that the node has no row, so no worker will report for it again.
func (n *Node) Removed() bool { return n.Row == nil }

// Down says that the leader has set the state of the node to DOWN.
func (n *Node) Down() bool { return n.State.GetState() == swarmv1.NodeState_DOWN }

// Lost says that the node is removed or down. Its tasks count as not running, except for those of
// single-writer services until the node is fenced.
func (n *Node) Lost() bool { return n.Removed() || n.Down() }

// DownSince returns when the node went down.
func (n *Node) DownSince() time.Time {
	if since := n.State.GetSince(); since != nil {
		return since.AsTime()
	}
	return timeOf(n.State.GetMeta().GetUpdatedAt())
}

// Draining says that the user wants no tasks on the node.
func (n *Node) Draining() bool {
	return n.Row.GetSpec().GetAvailability() == swarmv1.NodeSpec_DRAIN
}

func (n *Node) claimPort(port publish.Key) {
	if n.ports == nil {
		n.ports = map[publish.Key]struct{}{}
	}
	n.ports[port] = struct{}{}
}

// PortInUse says whether a claim prevents the use of the port, whose NodeID is empty.
func (n *Node) PortInUse(port publish.Key) bool {
	if _, claimed := n.ports[port]; claimed || len(n.ports) == 0 {
		return claimed
	}
	for other := range n.ports {
		if other.Conflicts(port) {
			return true
		}
	}
	return false
}

// PortHolder describes the task that prevents the use of the port. If several services may hold the
// port, it names the first by name.
func (n *Node) PortHolder(port publish.Key) string {
	name := ""
	for s := range n.taskRows {
		publishes := false
		for _, rev := range s.revisions {
			publishes = publishes || slices.ContainsFunc(rev.Ports, port.Conflicts)
		}
		if publishes && (name == "" || s.Row.GetName() < name) {
			name = s.Row.GetName()
		}
	}
	if name == "" {
		return "another task"
	}
	return "a task of service " + name
}
