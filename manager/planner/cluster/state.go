package cluster

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"swarm/internal/ipam"
	"swarm/internal/publish"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// State is the planner's own copy of the cluster. New creates it, Apply keeps it up to date, and
// one goroutine uses it.
//
// Rows may arrive in any order: a task may come before its node, service or revision. An object
// that a row names before its own row has arrived gets an entry without a row. State depends on the
// set of rows only, not on their order.
type State struct {
	nodes     map[string]*Node
	nodeOrder []*Node // the nodes that have a row, sorted by id
	// unregistered holds the nodes without a row: the row was deleted, or has not arrived yet.
	unregistered map[*Node]struct{}
	classes      map[string]*Class
	services     map[string]*Service
	tasks        map[string]*Task
	// unmatchedStatuses holds the statuses whose task row has not arrived, by task id.
	unmatchedStatuses map[string]*swarmv1.TaskStatus
	// claims holds the claims by the id of their owner, each list sorted by key.
	claims    map[string][]*swarmv1.Claim
	endpoints map[string]*swarmv1.Endpoint
	networks  map[string]*network
	ingress   *network // nil: there is no ingress network
	// ingressClaims counts, by node id, the address claims that name a node as their owner. All of
	// them are on the ingress network.
	ingressClaims map[string]int
	// ingressDirty says that a node may lack an ingress address, or may hold one that it must give
	// back. Due copies it to ingressDue, which the next Plan reads, and clears it.
	ingressDirty, ingressDue bool
	// HistoryLimit is how many ended tasks of a slot keep their rows.
	HistoryLimit int
	// lease is the cluster's setting of how long the single-writer tasks of a node may run after a
	// heartbeat of the node.
	lease time.Duration
	// LogDriver is the log driver of tasks whose revision does not name one.
	LogDriver *swarmv1.Driver

	dirty map[*Service]struct{}
	// waiting holds the services with tasks that have no node. They are planned again when
	// retryWaiting is set.
	waiting map[*Service]struct{}
	// deadlines holds the services that must be planned at a given time although no row changes.
	deadlines map[*Service]time.Time
	// retryWaiting says that since the last Due a node may have become able to take more tasks.
	retryWaiting bool
	// NewestImage is the version of the newest row that adds or changes an image or an image copy.
	NewestImage uint64
	// startedAt is the time of the first call of Due. Rows of a version up to startVersion were
	// written before that, as a rule by an earlier leader.
	startedAt                   time.Time
	startVersion, newestVersion uint64
	// orderStale says that nodeOrder must be sorted again.
	orderStale bool
}

func newState() *State {
	return &State{
		nodes:             map[string]*Node{},
		unregistered:      map[*Node]struct{}{},
		classes:           map[string]*Class{},
		services:          map[string]*Service{},
		tasks:             map[string]*Task{},
		unmatchedStatuses: map[string]*swarmv1.TaskStatus{},
		claims:            map[string][]*swarmv1.Claim{},
		endpoints:         map[string]*swarmv1.Endpoint{},
		networks:          map[string]*network{},
		ingressClaims:     map[string]int{},
		HistoryLimit:      spec.DefaultTaskHistory,
		lease:             spec.DefaultSessionTimeout,
		dirty:             map[*Service]struct{}{},
		waiting:           map[*Service]struct{}{},
		deadlines:         map[*Service]time.Time{},
	}
}

// fold applies the change of one row. old is nil if the row is new; row is nil if the row was
// deleted.
func (p *State) fold(old, row proto.Message) {
	deleted := row == nil
	if deleted {
		row = old
	}
	p.newestVersion = max(p.newestVersion, row.(interface{ GetMeta() *swarmv1.Meta }).GetMeta().GetVersion())
	switch o := row.(type) {
	case *swarmv1.Node:
		p.foldNode(o.GetId(), deleted, func(n *Node) { n.Row = o })
	case *swarmv1.NodeState:
		p.foldNodeState(o, deleted)
	case *swarmv1.Service:
		p.foldService(o, deleted)
	case *swarmv1.Revision:
		p.foldRevision(o, deleted)
	case *swarmv1.Task:
		p.foldTask(o, deleted)
	case *swarmv1.TaskStatus:
		p.foldTaskStatus(o, deleted)
	case *swarmv1.Claim:
		p.foldClaim(o, deleted)
	case *swarmv1.Endpoint:
		if deleted {
			delete(p.endpoints, o.GetServiceId())
		} else {
			p.endpoints[o.GetServiceId()] = o
		}
	case *swarmv1.Network:
		p.foldNetwork(o, deleted)
	case *swarmv1.Image:
		p.noteImage(o.GetMeta())
	case *swarmv1.ImageCopy:
		p.noteImage(o.GetMeta())
	case *swarmv1.Cluster:
		p.foldCluster(o)
	}
}

func (p *State) foldCluster(c *swarmv1.Cluster) {
	history := spec.DefaultTaskHistory
	if o := c.GetSpec().GetOrchestration(); o != nil {
		history = int(o.GetTaskHistoryRetentionLimit())
	}
	if history < p.HistoryLimit {
		for _, s := range p.services {
			p.markDirty(s)
		}
	}
	_, p.lease = spec.SessionTiming(c.GetSpec().GetDispatcher())
	p.HistoryLimit, p.LogDriver = history, c.GetSpec().GetTaskDefaults().GetLogDriver()
}

// foldClaim applies the change of a claim: a cursor, an address or a host port.
func (p *State) foldClaim(c *swarmv1.Claim, deleted bool) {
	if id, family, ok := ipam.ParseCursorKey(c.GetKey()); ok {
		p.foldCursor(c, id, family, deleted)
		return
	}
	owner := ipam.OwnerID(c.GetOwner())
	list := p.claims[owner]
	i, found := slices.BinarySearchFunc(list, c.GetKey(), func(a *swarmv1.Claim, key string) int { return cmp.Compare(a.GetKey(), key) })
	switch {
	case deleted && found:
		list = slices.Delete(list, i, i+1)
	case !deleted && found:
		list[i] = c
	case !deleted:
		list = slices.Insert(list, i, c)
	}
	if len(list) == 0 {
		delete(p.claims, owner)
	} else {
		p.claims[owner] = list
	}
	if id, a, ok := ipam.ParseKey(c.GetKey()); ok {
		p.foldAddressClaim(c, id, a, deleted)
		return
	}
	if key, ok := publish.ParseKey(c.GetKey()); ok && key.NodeID != "" {
		n, port := p.ensureNode(key.NodeID), key.On("")
		if deleted {
			delete(n.ports, port)
			p.retryWaiting = true
			p.forgetNode(n)
		} else {
			n.claimPort(port)
		}
	}
}

// markDirty makes the next Due return the service.
func (p *State) markDirty(s *Service) { p.dirty[s] = struct{}{} }

// noteImage records that an image or a copy is new, and makes services with waiting tasks due.
func (p *State) noteImage(m *swarmv1.Meta) {
	if m.GetVersion() > p.NewestImage {
		p.NewestImage = m.GetVersion()
		p.retryWaiting = true
	}
}

// Due returns the ids of the services that must be planned at time now, sorted. A service is due if
// a change or Retry has marked it, if its deadline has passed, or if it has tasks without a node
// and a node may be able to take more tasks. Due clears the marks. A service whose deadline has
// passed is due until Plan sets a new deadline. Due also marks the ingress addresses of nodes for
// the next Plan.
func (p *State) Due(now time.Time) []string {
	if p.startedAt.IsZero() {
		p.startedAt, p.startVersion = now, p.newestVersion
	}
	for n := range p.unregistered {
		if n.removedAt.IsZero() {
			n.removedAt = now
		}
	}
	for s, at := range p.deadlines {
		if !at.After(now) {
			p.markDirty(s)
		}
	}
	if p.retryWaiting {
		for s := range p.waiting {
			p.markDirty(s)
		}
		p.retryWaiting = false
	}
	ids := make([]string, 0, len(p.dirty))
	for s := range p.dirty {
		ids = append(ids, s.ID)
	}
	clear(p.dirty)
	p.ingressDue, p.ingressDirty = p.ingressDirty, false
	slices.Sort(ids)
	return ids
}

// Retry makes the next Due return the service, because its group was rejected or could not be
// committed. An empty serviceID stands for the addresses of nodes on the ingress network.
func (p *State) Retry(serviceID string) {
	p.ingressDirty = p.ingressDirty || serviceID == ""
	if s := p.services[serviceID]; s != nil {
		p.markDirty(s)
	}
}

// IngressDue says whether nodes may lack an ingress address, or hold one that they must give back.
// Only Due changes the answer.
func (p *State) IngressDue() bool { return p.ingressDue }

// HasIngress says whether there is an ingress network.
func (p *State) HasIngress() bool { return p.ingress != nil }

// IngressHolders returns the ids of the nodes that hold addresses, sorted.
func (p *State) IngressHolders() []string { return slices.Sorted(maps.Keys(p.ingressClaims)) }

// Node returns a node, or nil if no row names it. Its own row may not have arrived, or was deleted.
func (p *State) Node(id string) *Node { return p.nodes[id] }

// Nodes returns the nodes that have a row, sorted by id. The order and Node.Index are those of the
// last call of Draft.
func (p *State) Nodes() []*Node { return p.nodeOrder }

// Classes returns all classes of nodes, in no particular order.
func (p *State) Classes() iter.Seq[*Class] { return maps.Values(p.classes) }

// Service returns a service, or nil if no row names it.
func (p *State) Service(id string) *Service { return p.services[id] }

// Claims returns the claims of an owner, sorted by key.
func (p *State) Claims(ownerID string) []*swarmv1.Claim { return p.claims[ownerID] }

// Endpoint returns the endpoint of a service, or nil.
func (p *State) Endpoint(serviceID string) *swarmv1.Endpoint { return p.endpoints[serviceID] }
