package planner

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// service is one service with its revisions and tasks.
type service struct {
	id    string
	row   *swarmv1.Service // nil: deleted, or not seen yet
	revs  map[uint64]*revision
	slots map[slotKey]*slot
	// list holds the slots, in key order when sorted.
	list   []*slot
	sorted bool
	// nodes counts the tasks that should run on each node and have not ended.
	nodes map[*node]int32
	// waiting is how many tasks no node has taken, failed how many rows ended badly.
	waiting, failed int
}

// slotKey: replicated services number their slots; a global service has one a node.
type slotKey struct {
	number uint64
	node   string
}

func (k slotKey) compare(o slotKey) int {
	return cmp.Or(cmp.Compare(k.number, o.number), cmp.Compare(k.node, o.node))
}

// slot is a place of a service that should hold one running task, and the tasks it has had, oldest first.
type slot struct {
	key   slotKey
	tasks []*task
}

func (p *Picture) service(id string) *service {
	s := p.services[id]
	if s == nil {
		s = &service{id: id, revs: map[uint64]*revision{}, slots: map[slotKey]*slot{}, nodes: map[*node]int32{}, sorted: true}
		p.services[id] = s
	}
	return s
}

// release forgets a service of which no row is left.
func (p *Picture) release(s *service) {
	if s.row == nil && len(s.revs) == 0 && len(s.slots) == 0 {
		delete(p.services, s.id)
		delete(p.dirty, s)
		delete(p.waiting, s)
		delete(p.timed, s)
	}
}

func (p *Picture) foldService(row *swarmv1.Service, gone bool) {
	s := p.service(row.GetId())
	s.row = row
	if gone {
		s.row = nil
	}
	p.touch(s)
	p.release(s)
}

func (p *Picture) foldRevision(row *swarmv1.Revision, gone bool) {
	s := p.service(row.GetServiceId())
	defer p.release(s)
	r := s.revs[row.GetNumber()]
	if gone {
		if r != nil {
			r.row = nil
			if r.tasks == 0 {
				delete(s.revs, row.GetNumber())
			}
		}
		return
	}
	p.touch(s)
	if r == nil || r.tasks == 0 {
		s.revs[row.GetNumber()] = compile(row)
		return
	}
	// Its tasks came first and were counted as needing nothing.
	fresh := compile(row)
	s.revs[row.GetNumber()] = fresh
	for _, sl := range s.list {
		for _, t := range sl.tasks {
			if t.rev == r {
				p.uncount(t)
				t.rev = fresh
				fresh.tasks++
				p.count(t)
			}
		}
	}
}

func (s *service) revision(number uint64) *revision {
	r := s.revs[number]
	if r == nil {
		r = &revision{}
		s.revs[number] = r
	}
	return r
}

// current is the revision that new tasks are made from; nil when it has not been seen.
func (s *service) current() *revision {
	if r := s.revs[s.row.GetRevision()]; r != nil && r.row != nil {
		return r
	}
	return nil
}

func (s *service) mode() *swarmv1.ServiceMode {
	return s.revs[s.row.GetRevision()].spec().GetMode()
}

func (s *service) global() bool {
	m := s.mode()
	return m.GetGlobal() != nil || m.GetGlobalJob() != nil
}

func (s *service) job() bool {
	m := s.mode()
	return m.GetReplicatedJob() != nil || m.GetGlobalJob() != nil
}

func (s *service) priority() int32 { return s.revs[s.row.GetRevision()].spec().GetPriority() }

// ordered returns the slots in key order.
func (s *service) ordered() []*slot {
	if !s.sorted {
		slices.SortFunc(s.list, func(a, b *slot) int { return a.key.compare(b.key) })
		s.sorted = true
	}
	return s.list
}

func (s *service) slot(k slotKey) *slot {
	sl := s.slots[k]
	if sl == nil {
		sl = &slot{key: k}
		s.slots[k] = sl
		if n := len(s.list); n > 0 && s.list[n-1].key.compare(k) > 0 {
			s.sorted = false
		}
		s.list = append(s.list, sl)
	}
	return sl
}

func (s *service) dropSlot(sl *slot) {
	delete(s.slots, sl.key)
	list := s.ordered()
	if i, found := slices.BinarySearchFunc(list, sl.key, func(a *slot, k slotKey) int { return a.key.compare(k) }); found {
		s.list = slices.Delete(list, i, i+1)
	}
}

// revision is a service's revision, read once for all its tasks.
type revision struct {
	row *swarmv1.Revision // nil: not seen
	// tasks counts the task rows that name it.
	tasks int

	need    amounts
	limits  spec.Limits
	generic []*swarmv1.GenericResource
	// shared constraints are judged by class, single ones node by node.
	shared, single []spec.Constraint
	// broken: a constraint that cannot be read, so that no node fits it.
	broken      string
	platforms   []*swarmv1.Platform
	maxReplicas uint64
	ports       []string // as hostPortName spells them
	spread      []spec.Constraint
	networks    []*swarmv1.NetworkAttachment
	// asked are the addresses asked for on each of networks; wired: one of these is not node-local.
	asked   [][]netip.Addr
	wired   bool
	restart restartPolicy
}

func (r *revision) spec() *swarmv1.ServiceSpec {
	if r == nil {
		return nil
	}
	return r.row.GetSpec()
}

func compile(row *swarmv1.Revision) *revision {
	tmpl := row.GetSpec().GetTaskTemplate()
	res := tmpl.GetResources().GetReservations()
	r := &revision{
		row:         row,
		need:        amounts{cpu: res.GetNanoCpus(), memory: res.GetMemoryBytes()},
		limits:      spec.LimitsOf(row.GetSpec()),
		generic:     res.GetGeneric(),
		platforms:   tmpl.GetPlacement().GetPlatforms(),
		maxReplicas: tmpl.GetPlacement().GetMaxReplicas(),
		restart:     restartPolicyOf(tmpl.GetRestartPolicy()),
	}
	for _, s := range tmpl.GetPlacement().GetConstraints() {
		c, err := spec.ParseConstraint(s)
		switch {
		case err != nil:
			r.broken = s
		case c.PerNode():
			r.single = append(r.single, c)
		default:
			r.shared = append(r.shared, c)
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
	r.attach(tmpl.GetNetworks())
	if p := tmpl.GetContainerSpec().GetPlatform(); p != "" && len(r.platforms) == 0 {
		os, arch, _ := strings.Cut(p, "/")
		arch, variant, _ := strings.Cut(arch, "/")
		r.platforms = []*swarmv1.Platform{{Os: os, Architecture: arch, Variant: variant}}
	}
	return r
}

// template numbers equal task templates: tasks of revisions with one template need not be replaced by one another.
func (r *revision) template() uint64 { return r.row.GetTemplate() }

// deadline remembers when the service wants planning though nothing has changed. Zero: never.
func (p *Picture) deadline(s *service, at time.Time) {
	if at.IsZero() {
		delete(p.timed, s)
	} else {
		p.timed[s] = at
	}
}
