package planner

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"swarm/internal/ipam"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Picture is the cluster as planning sees it. It is made by New, kept by Apply, and used by one goroutine.
//
// Rows may arrive in any order, also a task before its node, service or revision: what a row names and nobody has seen
// yet gets an entry without a row. The picture depends on the set of rows alone, never on their order.
type Picture struct {
	nodes map[string]*node
	order []*node // every node with a row, by id
	// strangers are the nodes without a row: removed, or not seen yet.
	strangers map[*node]struct{}
	classes   map[string]*class
	services  map[string]*service
	tasks     map[string]*task
	// early holds statuses whose task has not been seen.
	early map[string]*swarmv1.TaskStatus
	// claims by the owner's id, in key order.
	claims    map[string][]*swarmv1.Claim
	endpoints map[string]*swarmv1.Endpoint
	networks  map[string]*network
	ingress   *network // nil: there is none
	// meshed counts the claims of each node's addresses on network ingress.
	meshed map[string]int
	// meshDirty: a node may lack its addresses there, or hold them for nothing; meshNow: the next plans look.
	meshDirty, meshNow bool
	history            int
	// lease is how long single-writer tasks may run after a heartbeat of their node.
	lease time.Duration
	// logDriver is of tasks whose revision names none.
	logDriver *swarmv1.Driver

	dirty map[*service]struct{}
	// waiting are the services with tasks that no node has taken: they are planned again when a node may take more.
	waiting map[*service]struct{}
	// timed are the services with a deadline of their own.
	timed map[*service]time.Time
	// roomier says that since the last Due some node may take more.
	roomier bool
	// imageNews is the version of the newest image, or copy of one, that the cluster has come to know of.
	imageNews uint64
	// began is when Due was first called: rows of a version up to base were written before, by another leader as a rule.
	began        time.Time
	base, newest uint64
	// spare is memory that plans use one after the other.
	spare spare
	// reordered says that order is out of date.
	reordered bool
}

type spare struct {
	views []view
	wants []want
	taken []taken
	heap  heap
}

// maxSpare is the capacity of the largest slice that is kept for the next plan. A plan that needs more
// takes longer than the allocation does.
const maxSpare = 4096

// recycle empties a slice for the next use. It clears the elements, because a removed service with all
// its tasks would otherwise stay in memory until a later plan is as large.
func recycle[T any, S ~[]T](list S) S {
	if cap(list) > maxSpare {
		return nil
	}
	clear(list)
	return list[:0]
}

func newPicture() *Picture {
	return &Picture{
		nodes:     map[string]*node{},
		strangers: map[*node]struct{}{},
		classes:   map[string]*class{},
		services:  map[string]*service{},
		tasks:     map[string]*task{},
		early:     map[string]*swarmv1.TaskStatus{},
		claims:    map[string][]*swarmv1.Claim{},
		endpoints: map[string]*swarmv1.Endpoint{},
		networks:  map[string]*network{},
		meshed:    map[string]int{},
		history:   spec.DefaultTaskHistory,
		lease:     spec.DefaultSessionTimeout,
		dirty:     map[*service]struct{}{},
		waiting:   map[*service]struct{}{},
		timed:     map[*service]time.Time{},
	}
}

// fold takes over one row's change: old is nil for a new row, new is nil for a deleted one.
func (p *Picture) fold(old, row proto.Message) {
	gone := row == nil
	if gone {
		row = old
	}
	p.newest = max(p.newest, row.(interface{ GetMeta() *swarmv1.Meta }).GetMeta().GetVersion())
	switch o := row.(type) {
	case *swarmv1.Node:
		p.foldNode(o.GetId(), gone, func(n *node) { n.row = o })
	case *swarmv1.NodeState:
		p.foldState(o, gone)
	case *swarmv1.Service:
		p.foldService(o, gone)
	case *swarmv1.Revision:
		p.foldRevision(o, gone)
	case *swarmv1.Task:
		p.foldTask(o, gone)
	case *swarmv1.TaskStatus:
		p.foldStatus(o, gone)
	case *swarmv1.Claim:
		p.foldClaim(o, gone)
	case *swarmv1.Endpoint:
		if gone {
			delete(p.endpoints, o.GetServiceId())
		} else {
			p.endpoints[o.GetServiceId()] = o
		}
	case *swarmv1.Network:
		p.foldNetwork(o, gone)
	case *swarmv1.Image:
		p.news(o.GetMeta())
	case *swarmv1.ImageCopy:
		p.news(o.GetMeta())
	case *swarmv1.Cluster:
		p.foldCluster(o)
	}
}

func (p *Picture) foldCluster(c *swarmv1.Cluster) {
	history := spec.DefaultTaskHistory
	if o := c.GetSpec().GetOrchestration(); o != nil {
		history = int(o.GetTaskHistoryRetentionLimit())
	}
	if history < p.history {
		for _, s := range p.services {
			p.touch(s)
		}
	}
	_, p.lease = spec.SessionPace(c.GetSpec().GetDispatcher())
	p.history, p.logDriver = history, c.GetSpec().GetTaskDefaults().GetLogDriver()
}

func (p *Picture) foldClaim(c *swarmv1.Claim, gone bool) {
	if id, family, ok := ipam.ParseCursorKey(c.GetKey()); ok {
		p.foldCursor(c, id, family, gone)
		return
	}
	owner := ipam.OwnerID(c.GetOwner())
	list := p.claims[owner]
	i, found := slices.BinarySearchFunc(list, c.GetKey(), func(a *swarmv1.Claim, key string) int { return cmp.Compare(a.GetKey(), key) })
	switch {
	case gone && found:
		list = slices.Delete(list, i, i+1)
	case !gone && found:
		list[i] = c
	case !gone:
		list = slices.Insert(list, i, c)
	}
	if len(list) == 0 {
		delete(p.claims, owner)
	} else {
		p.claims[owner] = list
	}
	if id, a, ok := ipam.ParseKey(c.GetKey()); ok {
		p.foldAddress(c, id, a, gone)
		return
	}
	if nodeID, port, ok := hostPort(c.GetKey()); ok {
		n := p.node(nodeID)
		if gone {
			delete(n.ports, port)
			p.roomier = true
			p.forget(n)
		} else {
			n.take(port)
		}
	}
}

// touch asks for the service to be planned.
func (p *Picture) touch(s *service) { p.dirty[s] = struct{}{} }

// Due returns the services that want planning at time now, and forgets that they do: those that changes touched, those
// whose deadline has come, and those with waiting tasks when there may be room.
func (p *Picture) Due(now time.Time) []string {
	if p.began.IsZero() {
		p.began, p.base = now, p.newest
	}
	for n := range p.strangers {
		if n.removed.IsZero() {
			n.removed = now
		}
	}
	for s, at := range p.timed {
		if !at.After(now) {
			p.touch(s)
		}
	}
	if p.roomier {
		for s := range p.waiting {
			p.touch(s)
		}
		p.roomier = false
	}
	ids := make([]string, 0, len(p.dirty))
	for s := range p.dirty {
		ids = append(ids, s.id)
	}
	clear(p.dirty)
	p.meshNow, p.meshDirty = p.meshDirty, false
	slices.Sort(ids)
	return ids
}

// Retry asks for a service to be planned again, because its group was rejected or could not be committed. "" stands for
// what no service owns.
func (p *Picture) Retry(serviceID string) {
	p.meshDirty = p.meshDirty || serviceID == ""
	if s := p.services[serviceID]; s != nil {
		p.touch(s)
	}
}
