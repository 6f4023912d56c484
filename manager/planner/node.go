package planner

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"swarm/internal/members"
	swarmv1 "swarm/proto/swarm/v1"
)

// node is one node: its rows, its capacity, and what tasks have reserved of it.
type node struct {
	id    string
	row   *swarmv1.Node // nil: deleted, or not arrived yet
	state *swarmv1.NodeState
	class *class // nil if row is nil
	// classIndex is the node's index in class.nodes.
	classIndex int
	// availability says whether the node takes new tasks of any service.
	availability availability
	index        int // index in State.nodeOrder; placement breaks ties by the lower index

	capacity resources
	reserved resources
	// taskCount is how many tasks should run on the node and have not ended.
	taskCount int
	// taskRows counts the task rows that name the node, by service, whatever the tasks' state.
	taskRows map[*service]int32
	// ports holds the claimed host ports, in the form of hostPortName. nil: no port is claimed.
	ports map[string]struct{}
	// lease is the lease in the node's last NodeState row. It outlives that row.
	lease time.Duration
	// removedAt is when Due first saw the node without a row. Zero: the node has a row, or Due has
	// not run since its row was deleted.
	removedAt time.Time
}

// availability says whether a node takes new tasks, and if not, why.
type availability uint8

const (
	// available: the node takes new tasks.
	available availability = iota
	// down: the node has no row, or its state is not READY.
	down
	// inactive: the user has paused or drained the node.
	inactive
	// unavailable: the node has reported that it can run no tasks.
	unavailable
)

func (n *node) checkAvailability() availability {
	switch {
	case n.row == nil || n.state.GetState() != swarmv1.NodeState_READY:
		return down
	case n.row.GetSpec().GetAvailability() != swarmv1.NodeSpec_ACTIVE:
		return inactive
	case n.state.GetDescription().GetUnavailable() != "":
		return unavailable
	}
	return available
}

// ensureNode returns the entry of a node, and adds one without a row if there is none.
func (p *State) ensureNode(id string) *node {
	n := p.nodes[id]
	if n == nil {
		n = &node{id: id, taskRows: map[*service]int32{}}
		p.nodes[id] = n
		p.unregistered[n] = struct{}{}
	}
	return n
}

// foldNode applies the change of a node row. set stores the row in the entry.
func (p *State) foldNode(id string, deleted bool, set func(*node)) {
	n := p.ensureNode(id)
	had := n.row != nil
	if deleted {
		n.row = nil
		p.unregistered[n] = struct{}{}
	} else {
		set(n)
		n.removedAt = time.Time{}
		delete(p.unregistered, n)
	}
	if had != (n.row != nil) {
		p.orderStale, p.ingressDirty = true, true
	}
	p.refreshNode(n)
	p.forgetNode(n)
}

// forgetNode drops the entry of a node that no row names any more.
func (p *State) forgetNode(n *node) {
	if n != nil && n.row == nil && n.state == nil && len(n.taskRows) == 0 && len(n.ports) == 0 {
		delete(p.nodes, n.id)
		delete(p.unregistered, n)
	}
}

// foldNodeState applies the change of a NodeState row.
func (p *State) foldNodeState(s *swarmv1.NodeState, deleted bool) {
	n := p.ensureNode(s.GetNodeId())
	old := n.state
	if deleted {
		n.state = nil
	} else {
		n.state, n.lease = s, s.GetLease().AsDuration()
	}
	if members.NeverReported(old) && !members.NeverReported(n.state) {
		p.ingressDirty = true
	}
	if old != nil && !deleted && old.GetState() == s.GetState() && old.GetFenced() == s.GetFenced() && proto.Equal(old.GetDescription(), s.GetDescription()) {
		return // Only the session is new. Nothing that planning depends on has changed.
	}
	p.refreshNode(n)
	p.forgetNode(n)
}

// refreshNode derives again what depends on the node's rows. It marks all services that the change
// may concern: those with tasks on the node, those with tasks that have no node, and global
// services.
func (p *State) refreshNode(n *node) {
	n.capacity = resourcesOf(n.state.GetDescription().GetResources())
	p.setClass(n)
	n.availability = n.checkAvailability()
	p.retryWaiting = true
	for s := range n.taskRows {
		p.markDirty(s)
	}
	for _, s := range p.services {
		if s.global() {
			p.markDirty(s)
		}
	}
}

// sortNodes sorts nodeOrder again if a node was added or removed.
func (p *State) sortNodes() {
	if !p.orderStale {
		return
	}
	p.nodeOrder = p.nodeOrder[:0]
	for _, n := range p.nodes {
		if n.row != nil {
			p.nodeOrder = append(p.nodeOrder, n)
		}
	}
	slices.SortFunc(p.nodeOrder, func(a, b *node) int { return cmp.Compare(a.id, b.id) })
	for i, n := range p.nodeOrder {
		n.index = i
	}
	p.orderStale = false
}

// name returns the node's name for users: its configured name, its host name or its id.
func (n *node) name() string {
	switch {
	case n.row.GetSpec().GetName() != "":
		return n.row.GetSpec().GetName()
	case n.hostname() != "":
		return n.hostname()
	}
	return n.id
}

// hostname returns the name with which the node joined, even if the host has been renamed since.
// Constraints on the host name may decide which nodes get secrets, so a node must not be able to
// change it.
func (n *node) hostname() string { return n.row.GetHostname() }

// removed says that the node has no row, so no worker will report for it again.
func (n *node) removed() bool { return n.row == nil }

func (n *node) down() bool { return n.state.GetState() == swarmv1.NodeState_DOWN }

// lost says that the node is removed or down. Its tasks count as not running, except as mayRun
// says.
func (n *node) lost() bool { return n.removed() || n.down() }

// downSince returns when the node went down.
func (n *node) downSince() time.Time {
	if since := n.state.GetSince(); since != nil {
		return since.AsTime()
	}
	return timeOf(n.state.GetMeta().GetUpdatedAt())
}

func (n *node) draining() bool {
	return n.row.GetSpec().GetAvailability() == swarmv1.NodeSpec_DRAIN
}

func (n *node) claimPort(port string) {
	if n.ports == nil {
		n.ports = map[string]struct{}{}
	}
	n.ports[port] = struct{}{}
}

// hostPortName returns "tcp/8080" for a port on all addresses of a host, and "tcp/8080/192.0.2.7"
// for a port on one address.
func hostPortName(p *swarmv1.PortConfig) string {
	name := strings.ToLower(p.GetProtocol().String()) + "/" + strconv.FormatUint(uint64(p.GetPublishedPort()), 10)
	if a, err := netip.ParseAddr(p.GetHostIp()); err == nil && !a.IsUnspecified() {
		name += "/" + a.Unmap().String()
	}
	return name
}

// portInUse says whether a claim prevents the use of the port: a claim of the same port, or of a
// port that overlaps with it because one of the two is on all addresses of the host.
func (n *node) portInUse(port string) bool {
	if _, claimed := n.ports[port]; claimed || len(n.ports) == 0 {
		return claimed
	}
	// the port is on one address
	if i := strings.LastIndexByte(port, '/'); strings.IndexByte(port, '/') != i {
		_, all := n.ports[port[:i]]
		return all
	}
	for other := range n.ports {
		if strings.HasPrefix(other, port+"/") {
			return true
		}
	}
	return false
}

// portHolder describes the task that prevents the use of the port. If several services may hold the
// port, it names the first by name.
func (n *node) portHolder(port string) string {
	name := ""
	for s := range n.taskRows {
		publishes := false
		for _, rev := range s.revisions {
			publishes = publishes || slices.ContainsFunc(rev.ports, func(p string) bool {
				return p == port || strings.HasPrefix(p, port+"/") || strings.HasPrefix(port, p+"/")
			})
		}
		if publishes && (name == "" || s.row.GetName() < name) {
			name = s.row.GetName()
		}
	}
	if name == "" {
		return "another task"
	}
	return "a task of service " + name
}

// hostPort parses the key of a claim of a host port: "port/<node>/tcp/8080" or
// "port/<node>/tcp/8080/<address>".
func hostPort(key string) (nodeID, port string, ok bool) {
	rest, ok := strings.CutPrefix(key, "port/")
	if !ok {
		return "", "", false
	}
	nodeID, port, ok = strings.Cut(rest, "/")
	return nodeID, port, ok && nodeID != "ingress"
}
