package cluster

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"swarm/internal/publish"
	"swarm/internal/rollout"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Service is one service with its revisions, slots and tasks.
type Service struct {
	ID        string
	Row       *swarmv1.Service // nil: deleted, or not arrived yet
	revisions map[uint64]*Revision
	slots     map[SlotKey]*Slot
	// slotList holds all slots, in key order if sorted is true.
	slotList []*Slot
	sorted   bool
	// tasksOnNode counts, by node, the tasks that should run and have not ended.
	tasksOnNode map[*Node]int32
	// Waiting counts the tasks that should run and have no node. Failed counts the task rows whose
	// task failed or was rejected.
	Waiting, Failed int
}

// SlotKey identifies a slot within its service. A replicated service numbers its slots from 1. A
// global service has one slot for each node.
type SlotKey struct {
	Number uint64
	Node   string
}

func (k SlotKey) compare(o SlotKey) int {
	return cmp.Or(cmp.Compare(k.Number, o.Number), cmp.Compare(k.Node, o.Node))
}

// Slot is a position of a service that should hold one running task. Tasks holds the task rows of
// the slot, current and past, oldest first.
type Slot struct {
	Key   SlotKey
	Tasks []*Task
}

// ensureService returns the entry of a service, and adds one without a row if there is none.
func (state *State) ensureService(id string) *Service {
	s := state.services[id]
	if s == nil {
		s = &Service{ID: id, revisions: map[uint64]*Revision{}, slots: map[SlotKey]*Slot{}, tasksOnNode: map[*Node]int32{}, sorted: true}
		state.services[id] = s
	}
	return s
}

// forgetService drops the entry of a service that no row names any more.
func (state *State) forgetService(s *Service) {
	if s.Row == nil && len(s.revisions) == 0 && len(s.slots) == 0 {
		delete(state.services, s.ID)
		delete(state.dirty, s)
		delete(state.waiting, s)
		delete(state.deadlines, s)
	}
}

func (state *State) foldService(row *swarmv1.Service, deleted bool) {
	s := state.ensureService(row.GetId())
	s.Row = row
	if deleted {
		s.Row = nil
	}
	state.markDirty(s)
	state.forgetService(s)
}

// foldRevision applies the change of a revision row.
func (state *State) foldRevision(row *swarmv1.Revision, deleted bool) {
	s := state.ensureService(row.GetServiceId())
	defer state.forgetService(s)
	r := s.revisions[row.GetNumber()]
	if deleted {
		if r != nil {
			r.Row = nil
			if r.tasks == 0 {
				delete(s.revisions, row.GetNumber())
			}
		}
		return
	}
	state.markDirty(s)
	if r == nil || r.tasks == 0 {
		s.revisions[row.GetNumber()] = newRevision(row)
		return
	}
	// The tasks of this revision arrived before its row and were counted without reservations.
	fresh := newRevision(row)
	s.revisions[row.GetNumber()] = fresh
	for _, sl := range s.slotList {
		for _, t := range sl.Tasks {
			if t.Revision == r {
				state.uncount(t)
				t.Revision = fresh
				state.count(t)
			}
		}
	}
}

// ensureRevision returns the entry of a revision, and adds one without a row if there is none.
func (s *Service) ensureRevision(number uint64) *Revision {
	r := s.revisions[number]
	if r == nil {
		r = &Revision{}
		s.revisions[number] = r
	}
	return r
}

// Revision returns the revision with the given number, or nil if it is not known. Its row may not
// have arrived.
func (s *Service) Revision(number uint64) *Revision { return s.revisions[number] }

// Revisions returns the rows of the service's revisions, lowest number first.
func (s *Service) Revisions() []*swarmv1.Revision {
	var rows []*swarmv1.Revision
	for _, number := range slices.Sorted(maps.Keys(s.revisions)) {
		if row := s.revisions[number].Row; row != nil {
			rows = append(rows, row)
		}
	}
	return rows
}

// Slot returns a slot, or nil if there is no task row of it.
func (s *Service) Slot(k SlotKey) *Slot { return s.slots[k] }

// HasSlot says whether a task row of the slot exists.
func (s *Service) HasSlot(k SlotKey) bool { return s.slots[k] != nil }

// TasksOn returns how many tasks of the service on the node should run and have not ended. A Draft
// subtracts the tasks that it stops; it does not add those that it places.
func (s *Service) TasksOn(n *Node) int { return int(s.tasksOnNode[n]) }

// HasTasks says whether a task of the service is counted on any node.
func (s *Service) HasTasks() bool { return len(s.tasksOnNode) > 0 }

// Current returns the revision from which new tasks are made, or nil if its row has not arrived.
func (s *Service) Current() *Revision {
	if r := s.revisions[s.Row.GetRevision()]; r != nil && r.Row != nil {
		return r
	}
	return nil
}

// Mode returns the mode of the current revision, or nil if the revision has not arrived.
func (s *Service) Mode() *swarmv1.ServiceMode {
	return s.revisions[s.Row.GetRevision()].Spec().GetMode()
}

// Global says whether the service has one slot for each node: it is a global service or global job.
func (s *Service) Global() bool {
	m := s.Mode()
	return m.GetGlobal() != nil || m.GetGlobalJob() != nil
}

// Job says whether the tasks of the service are meant to end: it is a replicated or global job.
func (s *Service) Job() bool { return spec.IsJob(s.Mode()) }

// Priority returns the priority of the current revision. Services with a higher priority are
// planned first.
func (s *Service) Priority() int32 { return s.revisions[s.Row.GetRevision()].Spec().GetPriority() }

// Slots returns the slots in key order.
func (s *Service) Slots() []*Slot {
	if !s.sorted {
		slices.SortFunc(s.slotList, func(a, b *Slot) int { return a.Key.compare(b.Key) })
		s.sorted = true
	}
	return s.slotList
}

// ensureSlot returns the entry of a slot, and adds one if there is none.
func (s *Service) ensureSlot(k SlotKey) *Slot {
	sl := s.slots[k]
	if sl == nil {
		sl = &Slot{Key: k}
		s.slots[k] = sl
		if n := len(s.slotList); n > 0 && s.slotList[n-1].Key.compare(k) > 0 {
			s.sorted = false
		}
		s.slotList = append(s.slotList, sl)
	}
	return sl
}

func (s *Service) dropSlot(sl *Slot) {
	delete(s.slots, sl.Key)
	list := s.Slots()
	if i, found := slices.BinarySearchFunc(list, sl.Key, func(a *Slot, k SlotKey) int { return a.Key.compare(k) }); found {
		s.slotList = slices.Delete(list, i, i+1)
	}
}

// Revision is one revision of a service, in a form that is computed once for all its tasks.
type Revision struct {
	Row *swarmv1.Revision // nil: not arrived
	// tasks counts the task rows that name the revision.
	tasks int

	// Need is what a task reserves, except for generic resources, which are in Generic.
	Need    Resources
	Limits  spec.Limits
	Generic []*swarmv1.GenericResource
	// ClassConstraints are evaluated for a class of nodes, NodeConstraints for each node.
	ClassConstraints, NodeConstraints []spec.Constraint
	// InvalidConstraint is a constraint that cannot be parsed. No node satisfies it. Empty: all are
	// valid.
	InvalidConstraint string
	Platforms         []*swarmv1.Platform // the task runs on any of them; empty: on all
	MaxReplicas       uint64              // tasks of the service on one node; 0: no limit
	// Ports are the keys of the host ports. Their NodeID is empty.
	Ports    []publish.Key
	Spread   []spec.Constraint
	Networks []*swarmv1.NetworkAttachment
	// requestedAddrs are the addresses that the user asked for, one list for each element of
	// Networks. needsAddress says that one of Networks is not local to the node.
	requestedAddrs [][]netip.Addr
	needsAddress   bool
	Restart        rollout.RestartPolicy
	// nodeVolumes are the mounts of volumes that are on one node. slotVolumes caches the result of
	// VolumesOf, by slot, if a name is a template.
	nodeVolumes []*swarmv1.Mount
	slotVolumes map[uint64][]NodeVolume
}

// Spec returns the specification, or nil if the revision is nil or its row has not arrived.
func (r *Revision) Spec() *swarmv1.ServiceSpec {
	if r == nil {
		return nil
	}
	return r.Row.GetSpec()
}

// newRevision converts a revision row. Its caller adds the task counts.
func newRevision(row *swarmv1.Revision) *Revision {
	tmpl := row.GetSpec().GetTaskTemplate()
	res := tmpl.GetResources().GetReservations()
	r := &Revision{
		Row:         row,
		Need:        Resources{CPU: res.GetNanoCpus(), Memory: res.GetMemoryBytes()},
		Limits:      spec.LimitsOf(row.GetSpec()),
		Generic:     res.GetGeneric(),
		Platforms:   tmpl.GetPlacement().GetPlatforms(),
		MaxReplicas: tmpl.GetPlacement().GetMaxReplicas(),
		Restart:     rollout.RestartPolicyOf(tmpl.GetRestartPolicy()),
	}
	for _, s := range tmpl.GetPlacement().GetConstraints() {
		c, err := spec.ParseConstraint(s)
		switch {
		case err != nil:
			r.InvalidConstraint = s
		case c.PerNode():
			r.NodeConstraints = append(r.NodeConstraints, c)
		default:
			r.ClassConstraints = append(r.ClassConstraints, c)
		}
	}
	for _, pref := range tmpl.GetPlacement().GetPreferences() {
		if c, err := spec.Preference(pref); err == nil {
			r.Spread = append(r.Spread, c)
		}
	}
	for _, port := range row.GetSpec().GetEndpointSpec().GetPorts() {
		if !publish.ByMesh(port) && port.GetPublishedPort() != 0 {
			r.Ports = append(r.Ports, publish.NodeKey("", port))
		}
	}
	r.addNetworks(tmpl.GetNetworks())
	r.addVolumes(tmpl.GetContainerSpec().GetMounts())
	if p := tmpl.GetContainerSpec().GetPlatform(); p != "" && len(r.Platforms) == 0 {
		os, arch, _ := strings.Cut(p, "/")
		arch, variant, _ := strings.Cut(arch, "/")
		r.Platforms = []*swarmv1.Platform{{Os: os, Architecture: arch, Variant: variant}}
	}
	return r
}

// Template returns the number of the revision's task template. Two revisions have equal numbers if
// their task templates are equal or differ only in the fields of spec.Limits. A task of one of them
// can move to the other and need not be replaced, if its node suits the other.
func (r *Revision) Template() uint64 { return r.Row.GetTemplate() }

func (r *Revision) image() string { return r.Spec().GetTaskTemplate().GetContainerSpec().GetImage() }

// PullsLike says whether a pull of the image that failed for one revision would fail for the other
// too. It returns false if the credentials differ, and if an update was forced between the two
// revisions, because a user may have removed the cause before that update.
func (r *Revision) PullsLike(o *Revision) bool {
	mine, others := r.Spec().GetTaskTemplate(), o.Spec().GetTaskTemplate()
	return r.image() == o.image() && mine.GetForceUpdate() == others.GetForceUpdate() &&
		mine.GetContainerSpec().GetPullOptions().GetRegistryAuth() == others.GetContainerSpec().GetPullOptions().GetRegistryAuth()
}

// SetDeadline records when Due must return the service although no row changes. Zero: never.
func (state *State) SetDeadline(s *Service, at time.Time) {
	if at.IsZero() {
		delete(state.deadlines, s)
	} else {
		state.deadlines[s] = at
	}
}

// NextDeadline returns the earliest deadline of all services, or zero.
func (state *State) NextDeadline() time.Time {
	var first time.Time
	for _, at := range state.deadlines {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}
