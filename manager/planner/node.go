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

// node is one node, what it offers and what is taken of it.
type node struct {
	id    string
	row   *swarmv1.Node // nil: removed, or not seen yet
	state *swarmv1.NodeState
	class *class // nil without a row
	// member is the node's place among its class's nodes.
	member int
	// open says whether the node takes new tasks at all.
	open refusal
	ord  int // place in Picture.order: ties go to the lower

	capacity amounts
	used     amounts
	// total is how many tasks should run here.
	total int
	// services counts the task rows here, of any state.
	services map[*service]int32
	// ports of the host that are claimed, as hostPortName spells them; nil when none is.
	ports map[string]struct{}
	// lease is that of the node's last session, as its row said.
	lease time.Duration
	// removed is when Due first saw that the node is no member any more. Zero: it is one, or Due has not looked yet.
	removed time.Time
}

func (p *Picture) node(id string) *node {
	n := p.nodes[id]
	if n == nil {
		n = &node{id: id, services: map[*service]int32{}}
		p.nodes[id] = n
		p.strangers[n] = struct{}{}
	}
	return n
}

func (p *Picture) foldNode(id string, gone bool, set func(*node)) {
	n := p.node(id)
	had := n.row != nil
	if gone {
		n.row = nil
		p.strangers[n] = struct{}{}
	} else {
		set(n)
		n.removed = time.Time{}
		delete(p.strangers, n)
	}
	if had != (n.row != nil) {
		p.reordered, p.meshDirty = true, true
	}
	p.nodeChanged(n)
	p.forget(n)
}

// forget drops the entry of a node that no row names any more.
func (p *Picture) forget(n *node) {
	if n != nil && n.row == nil && n.state == nil && len(n.services) == 0 && len(n.ports) == 0 {
		delete(p.nodes, n.id)
		delete(p.strangers, n)
	}
}

func (p *Picture) foldState(s *swarmv1.NodeState, gone bool) {
	n := p.node(s.GetNodeId())
	old := n.state
	if gone {
		n.state = nil
	} else {
		n.state, n.lease = s, s.GetLease().AsDuration()
	}
	if members.NeverReported(old) && !members.NeverReported(n.state) {
		p.meshDirty = true
	}
	if old != nil && !gone && old.GetState() == s.GetState() && old.GetFenced() == s.GetFenced() && proto.Equal(old.GetDescription(), s.GetDescription()) {
		return // a new session of a node that is as it was
	}
	p.nodeChanged(n)
	p.forget(n)
}

// nodeChanged files the node under its class again and has everything planned that may look at it: what runs there, what
// waits for room, and what runs on every node.
func (p *Picture) nodeChanged(n *node) {
	n.capacity = capacityOf(n.state.GetDescription().GetResources())
	p.classify(n)
	n.open = n.judge()
	p.roomier = true
	for s := range n.services {
		p.touch(s)
	}
	for _, s := range p.services {
		if s.global() {
			p.touch(s)
		}
	}
}

// sortNodes brings order up to date.
func (p *Picture) sortNodes() {
	if !p.reordered {
		return
	}
	p.order = p.order[:0]
	for _, n := range p.nodes {
		if n.row != nil {
			p.order = append(p.order, n)
		}
	}
	slices.SortFunc(p.order, func(a, b *node) int { return cmp.Compare(a.id, b.id) })
	for i, n := range p.order {
		n.ord = i
	}
	p.reordered = false
}

func (n *node) name() string {
	switch {
	case n.row.GetSpec().GetName() != "":
		return n.row.GetSpec().GetName()
	case n.hostname() != "":
		return n.hostname()
	}
	return n.id
}

// hostname is the one that the node joined with, whatever it calls itself now: constraints place secrets by it.
func (n *node) hostname() string { return n.row.GetHostname() }

// gone: nothing will ever report from there again.
func (n *node) gone() bool { return n.row == nil }

func (n *node) down() bool { return n.state.GetState() == swarmv1.NodeState_DOWN }

// lost: what ran there counts as not running.
func (n *node) lost() bool { return n.gone() || n.down() }

// downSince is when the node went down.
func (n *node) downSince() time.Time {
	if since := n.state.GetSince(); since != nil {
		return since.AsTime()
	}
	return instant(n.state.GetMeta().GetUpdatedAt())
}

func (n *node) draining() bool {
	return n.row.GetSpec().GetAvailability() == swarmv1.NodeSpec_DRAIN
}

func (n *node) take(port string) {
	if n.ports == nil {
		n.ports = map[string]struct{}{}
	}
	n.ports[port] = struct{}{}
}

// hostPortName is "tcp/8080" for a port on all addresses of a host, and "tcp/8080/192.0.2.7" for one on that address.
func hostPortName(p *swarmv1.PortConfig) string {
	name := strings.ToLower(p.GetProtocol().String()) + "/" + strconv.FormatUint(uint64(p.GetPublishedPort()), 10)
	if a, err := netip.ParseAddr(p.GetHostIp()); err == nil && !a.IsUnspecified() {
		name += "/" + a.Unmap().String()
	}
	return name
}

// publishes says whether a task has the port, or one that no host can serve beside it.
func (n *node) publishes(port string) bool {
	if _, taken := n.ports[port]; taken || len(n.ports) == 0 {
		return taken
	}
	if i := strings.LastIndexByte(port, '/'); strings.IndexByte(port, '/') != i { // on one address
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

// publisher names who has a port, or one that no host can serve beside it.
func (n *node) publisher(port string) string {
	name := ""
	for s := range n.services {
		publishes := false
		for _, rev := range s.revs {
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

// hostPort reads the claim of a host port, "port/<node>/tcp/8080" or "port/<node>/tcp/8080/<address>".
func hostPort(key string) (nodeID, port string, ok bool) {
	rest, ok := strings.CutPrefix(key, "port/")
	if !ok {
		return "", "", false
	}
	nodeID, port, ok = strings.Cut(rest, "/")
	return nodeID, port, ok && nodeID != "ingress"
}
