package planner

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	swarmv1 "swarm/proto/swarm/v1"
)

// want is a task to be made.
type want struct {
	key        slotKey
	id         string
	ordinal    uint64
	replaces   string
	rev        *revision
	node       *node // the only node that will do (global services); nil: any
	desired    swarmv1.TaskState
	startAfter time.Time
	// later: no node is looked for before startAfter.
	later    bool
	restarts *swarmv1.RestartHistory
	reason   string
	atom     int // of the slot's other changes; 0: it has none
}

// taken is one placement of this plan.
type taken struct {
	node *node
	rev  *revision
}

// left is a task that this plan stops: the node is not to be charged with it when others are placed.
type left struct {
	service *service
	node    *node
}

// leave notes that the task is about to stop.
func (r *run) leave(t *task) {
	if t.active {
		t.svc.nodes[t.node]--
		t.node.total--
		r.left = append(r.left, left{t.svc, t.node})
	}
}

// given are the generic resources of a placement.
type given struct {
	node    *node
	generic []*swarmv1.GenericResource
}

// place finds nodes: first for the tasks that have waited, then for the new ones.
func (r *run) place() {
	if r.svc.waiting > 0 {
		for i := range r.views {
			v := &r.views[i]
			if t := v.head; t != nil && t.unplaced() && !r.freed[t.id] && v.act == keep {
				r.out.atom = i + 1
				r.retry(t)
			}
		}
	}
	r.out.grow(2 * len(r.wants))
	for i := range r.wants {
		w := &r.wants[i]
		if r.out.atom = w.atom; w.atom == 0 {
			r.out.atom = len(r.views) + 1 + i
		}
		r.make(w, len(r.wants)-i)
	}
	r.extend()
	for _, p := range r.placers {
		r.p.spare.heap = recycle(p.root.heap)
	}
	r.placers = r.placers[:0]
}

// maxWaiting bounds the tasks of a service that exist though no node takes them. The other slots that the service lacks are
// only counted: what one of its new tasks is refused all are, and 5,000,000 of them took 4.9 GB.
const maxWaiting = 1000

// extend makes the tasks of the slots that the service never had.
func (r *run) extend() {
	r.out.atom = len(r.views) + len(r.wants)
	for ; r.more > 0; r.more-- {
		w := r.want(slotKey{number: r.number}, nil)
		r.out.atom++
		if !r.make(&w, r.more) {
			return
		}
		r.number++
	}
}

// retry looks for a node for a task that has none. What it says of why there is none is written only when it is new.
func (r *run) retry(t *task) {
	if r.pending(r.p.startAfter(t)) {
		return
	}
	n, why := r.find(t.rev, t.node)
	if n == nil {
		if t.status == nil || t.status.GetErr() == why.err && t.status.GetUnplaced().EqualVT(why.unplaced) {
			return
		}
		st := r.out.editStatus(t)
		st.State, st.Timestamp, st.Err, st.Unplaced = swarmv1.TaskState_PENDING, r.nowpb, why.err, why.unplaced
		return
	}
	if t.status == nil {
		return // its status comes with the next batch
	}
	r.waits--
	row := r.out.edit(t)
	row.NodeId, row.AssignedGenericResources = n.id, r.take(t.rev, n)
	row.Networks = r.address(t.rev, t.id)
	r.claim(t.rev, n, t.id)
	st := r.out.editStatus(t)
	st.State, st.Timestamp, st.Message, st.Err, st.Unplaced = swarmv1.TaskState_ASSIGNED, r.nowpb, assigned, "", nil
}

const (
	assigned = "assigned to a node"
	pending  = "pending task scheduling"
)

// make creates the task, on a node if one takes it. False: none does, and too many wait already.
func (r *run) make(w *want, left int) bool {
	var n *node
	var why verdict
	if !w.later || !r.pending(w.startAfter) {
		n, why = r.find(w.rev, w.node)
	}
	if n == nil {
		if r.waits++; r.waits > maxWaiting && w.key.number > 0 && w.replaces == "" {
			return false
		}
	}
	row, st := r.out.create(left)
	row.Id, row.ServiceId, row.Revision, row.Slot = w.id, r.svc.id, w.rev.row.GetNumber(), w.key.number
	row.DesiredState, row.StartAfter, row.Restarts, row.Replaces = w.desired, stamp(w.startAfter), w.restarts, w.replaces
	row.Networks, row.JobIteration = w.rev.networks, r.svc.row.GetJobStatus().GetJobIteration()
	row.Ordinal = w.ordinal
	row.Update = r.updateStatus().GetStartedVersion()
	if w.rev.row.GetSpec().GetTaskTemplate().GetLogDriver() == nil {
		row.LogDriver = r.p.logDriver
	}
	if w.node != nil {
		row.NodeId = w.node.id
	}
	st.TaskId, st.Timestamp = w.id, r.nowpb
	if n == nil {
		st.State, st.Message, st.Err, st.Unplaced = swarmv1.TaskState_PENDING, w.message(pending), why.err, why.unplaced
		return true
	}
	row.NodeId, row.AssignedGenericResources = n.id, r.take(w.rev, n)
	st.State, st.Message = swarmv1.TaskState_ASSIGNED, w.message(assigned)
	row.Networks = r.address(w.rev, w.id)
	r.claim(w.rev, n, w.id)
	return true
}

// pending says whether the time is still to come, and if so asks to be woken then.
func (r *run) pending(at time.Time) bool {
	if !at.After(r.now) {
		return false
	}
	r.wake(at)
	return true
}

// message says what happened and, when the task follows another, why.
func (w *want) message(what string) string {
	if w.reason == "" {
		return what
	}
	return what + "; replaces " + w.replaces + ": " + w.reason
}

// claim makes the host ports of the task exclusive.
func (r *run) claim(rev *revision, n *node, id string) {
	for _, port := range rev.ports {
		r.out.claim("port/"+n.id+"/"+port, id)
	}
}

// find returns the node for one more task of the revision, or why there is none, and picks its addresses. only is the
// single node that will do, or nil.
func (r *run) find(rev *revision, only *node) (*node, verdict) {
	if why := r.pick(rev); why != nil {
		return nil, *why
	}
	if only != nil {
		if rev.refuses(only, r.count(rev, only), r.lacking(rev)) == fits {
			return only, verdict{}
		}
		return nil, r.explain(rev, []*node{only})
	}
	p := r.placer(rev)
	if n := p.pick(); n != nil {
		return n, verdict{}
	}
	if p.verdict == nil {
		v := r.explain(rev, r.p.order)
		p.verdict = &v
	}
	return nil, *p.verdict
}

func (r *run) explain(rev *revision, nodes []*node) verdict {
	lacking := r.lacking(rev)
	for _, t := range lacking {
		r.wake(r.p.reportedAt(t).Add(imageRetry))
	}
	return rev.explain(nodes, func(n *node) uint64 { return r.count(rev, n) }, lacking)
}

// count is how many tasks of the service should run on the node, this plan's included. Only the limit of replicas on a
// node asks for it.
func (r *run) count(rev *revision, n *node) uint64 {
	if rev.maxReplicas == 0 {
		return 0
	}
	count := r.svc.nodes[n]
	for i := r.from; i < len(r.taken); i++ {
		if r.taken[i].node == n {
			count++
		}
	}
	return uint64(count)
}

// placer returns the service's placer for a revision. There are two only when tasks of a paused update are replaced.
func (r *run) placer(rev *revision) *placer {
	for _, p := range r.placers {
		if p.rev == rev {
			return p
		}
	}
	p := r.newPlacer(rev)
	r.placers = append(r.placers, p)
	return p
}

// take notes that a task of the revision is placed on the node, and returns the generic resources that it gets.
func (r *run) take(rev *revision, n *node) []*swarmv1.GenericResource {
	generic := n.allot(rev.generic)
	n.used.cpu += rev.need.cpu
	n.used.memory += rev.need.memory
	n.used.addGeneric(generic)
	n.total++
	for _, port := range rev.ports {
		n.take(port)
	}
	r.taken = append(r.taken, taken{n, rev})
	if generic != nil {
		r.given = append(r.given, given{n, generic})
	}
	return generic
}

// undo takes back what take did, so that the picture is what the store says.
func (r *run) undo() {
	for i := range r.taken {
		t := &r.taken[i]
		t.node.used.cpu -= t.rev.need.cpu
		t.node.used.memory -= t.rev.need.memory
		t.node.total--
		for _, port := range t.rev.ports {
			delete(t.node.ports, port)
		}
	}
	for _, g := range r.given {
		g.node.used.dropGeneric(g.generic)
	}
	for _, l := range r.left {
		l.service.nodes[l.node]++
		l.node.total++
	}
	r.lower()
	r.unaddress()
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
