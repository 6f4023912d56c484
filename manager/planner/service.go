package planner

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"swarm/internal/rollout"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// service is one service with its revisions, slots and tasks.
type service struct {
	id        string
	row       *swarmv1.Service // nil: deleted, or not arrived yet
	revisions map[uint64]*revision
	slots     map[slotKey]*slot
	// slotList holds all slots, in key order if sorted is true.
	slotList []*slot
	sorted   bool
	// tasksOnNode counts, by node, the tasks that should run and have not ended.
	tasksOnNode map[*node]int32
	// waiting counts the tasks that should run and have no node. failed counts the task rows whose
	// task failed or was rejected.
	waiting, failed int
}

// slotKey identifies a slot within its service. A replicated service numbers its slots from 1. A
// global service has one slot for each node.
type slotKey struct {
	number uint64
	node   string
}

func (k slotKey) compare(o slotKey) int {
	return cmp.Or(cmp.Compare(k.number, o.number), cmp.Compare(k.node, o.node))
}

// slot is a position of a service that should hold one running task. tasks holds the task rows of
// the slot, current and past, oldest first.
type slot struct {
	key   slotKey
	tasks []*task
}

// ensureService returns the entry of a service, and adds one without a row if there is none.
func (p *State) ensureService(id string) *service {
	s := p.services[id]
	if s == nil {
		s = &service{id: id, revisions: map[uint64]*revision{}, slots: map[slotKey]*slot{}, tasksOnNode: map[*node]int32{}, sorted: true}
		p.services[id] = s
	}
	return s
}

// forgetService drops the entry of a service that no row names any more.
func (p *State) forgetService(s *service) {
	if s.row == nil && len(s.revisions) == 0 && len(s.slots) == 0 {
		delete(p.services, s.id)
		delete(p.dirty, s)
		delete(p.waiting, s)
		delete(p.deadlines, s)
	}
}

func (p *State) foldService(row *swarmv1.Service, deleted bool) {
	s := p.ensureService(row.GetId())
	s.row = row
	if deleted {
		s.row = nil
	}
	p.markDirty(s)
	p.forgetService(s)
}

// foldRevision applies the change of a revision row.
func (p *State) foldRevision(row *swarmv1.Revision, deleted bool) {
	s := p.ensureService(row.GetServiceId())
	defer p.forgetService(s)
	r := s.revisions[row.GetNumber()]
	if deleted {
		if r != nil {
			r.row = nil
			if r.tasks == 0 {
				delete(s.revisions, row.GetNumber())
			}
		}
		return
	}
	p.markDirty(s)
	if r == nil || r.tasks == 0 {
		s.revisions[row.GetNumber()] = newRevision(row)
		return
	}
	// The tasks of this revision arrived before its row and were counted without reservations.
	fresh := newRevision(row)
	s.revisions[row.GetNumber()] = fresh
	for _, sl := range s.slotList {
		for _, t := range sl.tasks {
			if t.revision == r {
				p.uncount(t)
				t.revision = fresh
				fresh.tasks++
				p.count(t)
			}
		}
	}
}

// ensureRevision returns the entry of a revision, and adds one without a row if there is none.
func (s *service) ensureRevision(number uint64) *revision {
	r := s.revisions[number]
	if r == nil {
		r = &revision{}
		s.revisions[number] = r
	}
	return r
}

// Revision returns the revision with the given number, or nil if it is not known. Its row may not have
// arrived.
func (s *service) Revision(number uint64) *revision { return s.revisions[number] }

// Revisions returns the rows of the service's revisions, lowest number first.
func (s *service) Revisions() []*swarmv1.Revision {
	var rows []*swarmv1.Revision
	for _, number := range slices.Sorted(maps.Keys(s.revisions)) {
		if row := s.revisions[number].row; row != nil {
			rows = append(rows, row)
		}
	}
	return rows
}

// HasSlot says whether a task row of the slot exists.
func (s *service) HasSlot(k slotKey) bool { return s.slots[k] != nil }

// TasksOn returns how many tasks of the service on the node should run and have not ended. A Draft
// subtracts the tasks that it stops; it does not add those that it places.
func (s *service) TasksOn(n *node) int { return int(s.tasksOnNode[n]) }

// HasTasks says whether a task of the service is counted on any node.
func (s *service) HasTasks() bool { return len(s.tasksOnNode) > 0 }

// current returns the revision from which new tasks are made, or nil if its row has not arrived.
func (s *service) current() *revision {
	if r := s.revisions[s.row.GetRevision()]; r != nil && r.row != nil {
		return r
	}
	return nil
}

func (s *service) mode() *swarmv1.ServiceMode {
	return s.revisions[s.row.GetRevision()].spec().GetMode()
}

func (s *service) global() bool {
	m := s.mode()
	return m.GetGlobal() != nil || m.GetGlobalJob() != nil
}

func (s *service) job() bool {
	m := s.mode()
	return m.GetReplicatedJob() != nil || m.GetGlobalJob() != nil
}

func (s *service) priority() int32 { return s.revisions[s.row.GetRevision()].spec().GetPriority() }

// Slots returns the slots in key order.
func (s *service) Slots() []*slot {
	if !s.sorted {
		slices.SortFunc(s.slotList, func(a, b *slot) int { return a.key.compare(b.key) })
		s.sorted = true
	}
	return s.slotList
}

// ensureSlot returns the entry of a slot, and adds one if there is none.
func (s *service) ensureSlot(k slotKey) *slot {
	sl := s.slots[k]
	if sl == nil {
		sl = &slot{key: k}
		s.slots[k] = sl
		if n := len(s.slotList); n > 0 && s.slotList[n-1].key.compare(k) > 0 {
			s.sorted = false
		}
		s.slotList = append(s.slotList, sl)
	}
	return sl
}

func (s *service) dropSlot(sl *slot) {
	delete(s.slots, sl.key)
	list := s.Slots()
	if i, found := slices.BinarySearchFunc(list, sl.key, func(a *slot, k slotKey) int { return a.key.compare(k) }); found {
		s.slotList = slices.Delete(list, i, i+1)
	}
}

// revision is one revision of a service, in a form that is computed once for all its tasks.
type revision struct {
	row *swarmv1.Revision // nil: not arrived
	// tasks counts the task rows that name the revision.
	tasks int

	need    resources
	limits  spec.Limits
	generic []*swarmv1.GenericResource
	// classConstraints are evaluated for a class of nodes, nodeConstraints for each node.
	classConstraints, nodeConstraints []spec.Constraint
	// invalidConstraint is a constraint that cannot be parsed. No node satisfies it. Empty: all are
	// valid.
	invalidConstraint string
	platforms         []*swarmv1.Platform
	maxReplicas       uint64
	ports             []string // in the form of hostPortName
	spread            []spec.Constraint
	networks          []*swarmv1.NetworkAttachment
	// requestedAddrs are the addresses that the user asked for, one list for each of networks.
	// needsAddress says that one of networks is not local to the node.
	requestedAddrs [][]netip.Addr
	needsAddress   bool
	restart        rollout.RestartPolicy
}

func (r *revision) spec() *swarmv1.ServiceSpec {
	if r == nil {
		return nil
	}
	return r.row.GetSpec()
}

// newRevision converts a revision row. Its caller adds the task counts.
func newRevision(row *swarmv1.Revision) *revision {
	tmpl := row.GetSpec().GetTaskTemplate()
	res := tmpl.GetResources().GetReservations()
	r := &revision{
		row:         row,
		need:        resources{cpu: res.GetNanoCpus(), memory: res.GetMemoryBytes()},
		limits:      spec.LimitsOf(row.GetSpec()),
		generic:     res.GetGeneric(),
		platforms:   tmpl.GetPlacement().GetPlatforms(),
		maxReplicas: tmpl.GetPlacement().GetMaxReplicas(),
		restart:     rollout.RestartPolicyOf(tmpl.GetRestartPolicy()),
	}
	for _, s := range tmpl.GetPlacement().GetConstraints() {
		c, err := spec.ParseConstraint(s)
		switch {
		case err != nil:
			r.invalidConstraint = s
		case c.PerNode():
			r.nodeConstraints = append(r.nodeConstraints, c)
		default:
			r.classConstraints = append(r.classConstraints, c)
		}
	}
	for _, pref := range tmpl.GetPlacement().GetPreferences() {
		if c, err := spec.Preference(pref); err == nil {
			r.spread = append(r.spread, c)
		}
	}
	for _, port := range row.GetSpec().GetEndpointSpec().GetPorts() {
		if port.GetPublishMode() == swarmv1.PortConfig_HOST && port.GetPublishedPort() != 0 {
			r.ports = append(r.ports, hostPortName(port))
		}
	}
	r.addNetworks(tmpl.GetNetworks())
	if p := tmpl.GetContainerSpec().GetPlatform(); p != "" && len(r.platforms) == 0 {
		os, arch, _ := strings.Cut(p, "/")
		arch, variant, _ := strings.Cut(arch, "/")
		r.platforms = []*swarmv1.Platform{{Os: os, Architecture: arch, Variant: variant}}
	}
	return r
}

// template returns the number of the revision's task template. Revisions with equal task templates
// have equal numbers, so a task of one needs no replacement by a task of the other.
func (r *revision) template() uint64 { return r.row.GetTemplate() }

func (r *revision) image() string { return r.spec().GetTaskTemplate().GetContainerSpec().GetImage() }

// pullsLike says whether a pull that failed for one revision would fail for the other too. It may
// succeed with other credentials, or after a forced update, which tells that the user has fixed
// something.
func (r *revision) pullsLike(o *revision) bool {
	mine, others := r.spec().GetTaskTemplate(), o.spec().GetTaskTemplate()
	return r.image() == o.image() && mine.GetForceUpdate() == others.GetForceUpdate() &&
		mine.GetContainerSpec().GetPullOptions().GetRegistryAuth() == others.GetContainerSpec().GetPullOptions().GetRegistryAuth()
}

// setDeadline records when Due must return the service although no row changes. Zero: never.
func (p *State) setDeadline(s *service, at time.Time) {
	if at.IsZero() {
		delete(p.deadlines, s)
	} else {
		p.deadlines[s] = at
	}
}

// nextDeadline returns the earliest deadline of all services, or zero.
func (p *State) nextDeadline() time.Time {
	var first time.Time
	for _, at := range p.deadlines {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}
