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
	// volumes holds the volumes by name, each list sorted by node id.
	volumes map[string][]*swarmv1.Volume
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
		volumes:           map[string][]*swarmv1.Volume{},
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
func (state *State) fold(old, row proto.Message) {
	deleted := row == nil
	if deleted {
		row = old
	}
	state.newestVersion = max(state.newestVersion, row.(interface{ GetMeta() *swarmv1.Meta }).GetMeta().GetVersion())
	switch o := row.(type) {
	case *swarmv1.Node:
		state.foldNode(o.GetId(), deleted, func(n *Node) { n.Row = o })
	case *swarmv1.NodeState:
		state.foldNodeState(o, deleted)
	case *swarmv1.Service:
		state.foldService(o, deleted)
	case *swarmv1.Revision:
		state.foldRevision(o, deleted)
	case *swarmv1.Task:
		state.foldTask(o, deleted)
	case *swarmv1.TaskStatus:
		state.foldTaskStatus(o, deleted)
	case *swarmv1.Claim:
		state.foldClaim(o, deleted)
	case *swarmv1.Endpoint:
		if deleted {
			delete(state.endpoints, o.GetServiceId())
		} else {
			state.endpoints[o.GetServiceId()] = o
		}
	case *swarmv1.Volume:
		state.foldVolume(o, deleted)
	case *swarmv1.Network:
		state.foldNetwork(o, deleted)
	case *swarmv1.Image:
		state.noteImage(o.GetMeta())
	case *swarmv1.ImageCopy:
		state.noteImage(o.GetMeta())
	case *swarmv1.Cluster:
		state.foldCluster(o)
	}
}

func (state *State) foldCluster(c *swarmv1.Cluster) {
	history := spec.DefaultTaskHistory
	if o := c.GetSpec().GetOrchestration(); o != nil {
		history = int(o.GetTaskHistoryRetentionLimit())
	}
	if history < state.HistoryLimit {
		for _, s := range state.services {
			state.markDirty(s)
		}
	}
	_, state.lease = spec.SessionTiming(c.GetSpec().GetDispatcher())
	state.HistoryLimit, state.LogDriver = history, c.GetSpec().GetTaskDefaults().GetLogDriver()
}

// foldClaim applies the change of a claim: a cursor, an address or a host port.
func (state *State) foldClaim(c *swarmv1.Claim, deleted bool) {
	if id, family, ok := ipam.ParseCursorKey(c.GetKey()); ok {
		state.foldCursor(c, id, family, deleted)
		return
	}
	owner := ipam.OwnerID(c.GetOwner())
	list := state.claims[owner]
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
		delete(state.claims, owner)
	} else {
		state.claims[owner] = list
	}
	if id, a, ok := ipam.ParseKey(c.GetKey()); ok {
		state.foldAddressClaim(c, id, a, deleted)
		return
	}
	if key, ok := publish.ParseKey(c.GetKey()); ok && key.NodeID != "" {
		n, port := state.ensureNode(key.NodeID), key.On("")
		if deleted {
			delete(n.ports, port)
			state.retryWaiting = true
			state.forgetNode(n)
		} else {
			n.claimPort(port)
		}
	}
}

// markDirty makes the next Due return the service.
func (state *State) markDirty(s *Service) { state.dirty[s] = struct{}{} }

// noteImage records that an image or a copy is new, and makes services with waiting tasks due.
func (state *State) noteImage(m *swarmv1.Meta) {
	if m.GetVersion() > state.NewestImage {
		state.NewestImage = m.GetVersion()
		state.retryWaiting = true
	}
}

// Due returns the ids of the services that must be planned at time now, sorted. A service is due if
// a change or Retry has marked it, if its deadline has passed, or if it has tasks without a node
// and a node may be able to take more tasks. Due clears the marks. A service whose deadline has
// passed is due until Plan sets a new deadline. Due also marks the ingress addresses of nodes for
// the next Plan.
func (state *State) Due(now time.Time) []string {
	if state.startedAt.IsZero() {
		state.startedAt, state.startVersion = now, state.newestVersion
	}
	for n := range state.unregistered {
		if n.removedAt.IsZero() {
			n.removedAt = now
		}
	}
	for s, at := range state.deadlines {
		if !at.After(now) {
			state.markDirty(s)
		}
	}
	if state.retryWaiting {
		for s := range state.waiting {
			state.markDirty(s)
		}
		state.retryWaiting = false
	}
	ids := make([]string, 0, len(state.dirty))
	for s := range state.dirty {
		ids = append(ids, s.ID)
	}
	clear(state.dirty)
	state.ingressDue, state.ingressDirty = state.ingressDirty, false
	slices.Sort(ids)
	return ids
}

// Retry makes the next Due return the service, because its group was rejected or could not be
// committed. An empty serviceID stands for the addresses of nodes on the ingress network.
func (state *State) Retry(serviceID string) {
	state.ingressDirty = state.ingressDirty || serviceID == ""
	if s := state.services[serviceID]; s != nil {
		state.markDirty(s)
	}
}

// IngressDue says whether nodes may lack an ingress address, or hold one that they must give back.
// Only Due changes the answer.
func (state *State) IngressDue() bool { return state.ingressDue }

// HasIngress says whether there is an ingress network.
func (state *State) HasIngress() bool { return state.ingress != nil }

// IngressHolders returns the ids of the nodes that hold addresses, sorted.
func (state *State) IngressHolders() []string { return slices.Sorted(maps.Keys(state.ingressClaims)) }

// Node returns a node, or nil if no row names it. Its own row may not have arrived, or was deleted.
func (state *State) Node(id string) *Node { return state.nodes[id] }

// Nodes returns the nodes that have a row, sorted by id. The order and Node.Index are those of the
// last call of Draft.
func (state *State) Nodes() []*Node { return state.nodeOrder }

// Classes returns all classes of nodes, in no particular order.
func (state *State) Classes() iter.Seq[*Class] { return maps.Values(state.classes) }

// Service returns a service, or nil if no row names it.
func (state *State) Service(id string) *Service { return state.services[id] }

// Claims returns the claims of an owner, sorted by key.
func (state *State) Claims(ownerID string) []*swarmv1.Claim { return state.claims[ownerID] }

// Endpoint returns the endpoint of a service, or nil.
func (state *State) Endpoint(serviceID string) *swarmv1.Endpoint { return state.endpoints[serviceID] }
