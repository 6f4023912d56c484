package planner

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	swarmv1 "swarm/proto/swarm/v1"
)

// newTask is a task that this plan creates.
type newTask struct {
	key        slotKey
	id         string
	ordinal    uint64
	replaces   string
	revision   *revision
	node       *node // the only node allowed (global services); nil: any
	desired    swarmv1.TaskState
	startAfter time.Time
	// delayPlacement: the task gets no node before startAfter.
	delayPlacement bool
	restarts       *swarmv1.RestartHistory
	replaceReason  string
	atom           int // atom of the slot's other changes; 0: there are none
}

// placement is one placement of this plan.
type placement struct {
	node     *node
	revision *revision
}

// stoppingTask is a task that this plan stops. Placement does not count it on its node.
type stoppingTask struct {
	service *service
	node    *node
}

// noteStopping subtracts the task from the task counts of its node, because this plan stops it.
func (r *run) noteStopping(t *task) {
	if t.counted {
		t.service.tasksOnNode[t.node]--
		t.node.taskCount--
		r.stopping = append(r.stopping, stoppingTask{t.service, t.node})
	}
}

// genericAlloc holds the generic resources of one placement.
type genericAlloc struct {
	node    *node
	generic []*swarmv1.GenericResource
}

// placeTasks finds nodes for tasks: first for the tasks that waited already, then for the new ones.
func (r *run) placeTasks() {
	if r.service.waiting > 0 {
		for i := range r.views {
			v := &r.views[i]
			if t := v.head; t != nil && t.unplaced() && !r.deleted[t.id] && v.action == keep {
				r.out.atom = i + 1
				r.placeWaiting(t)
			}
		}
	}
	r.out.grow(2 * len(r.newTasks))
	for i := range r.newTasks {
		w := &r.newTasks[i]
		if r.out.atom = w.atom; w.atom == 0 {
			r.out.atom = len(r.views) + 1 + i
		}
		r.createTask(w, len(r.newTasks)-i)
	}
	r.createMissing()
	for _, p := range r.placers {
		r.state.scratch.candidates = recycle(p.root.nodes)
	}
	r.placers = r.placers[:0]
}

// maxWaiting limits the tasks of a service that exist without a node. More missing slots are only
// counted: if a node refuses one new task of a service, it refuses all. Without the limit,
// 5,000,000 waiting tasks took 4.9 GB.
const maxWaiting = 1000

// createMissing creates the tasks of the slots that grow left to it, until too many tasks wait.
func (r *run) createMissing() {
	r.out.atom = len(r.views) + len(r.newTasks)
	for ; r.missingSlots > 0; r.missingSlots-- {
		w := r.newTask(slotKey{number: r.nextSlot}, nil)
		r.out.atom++
		if !r.createTask(&w, r.missingSlots) {
			return
		}
		r.nextSlot++
	}
}

// placeWaiting looks for a node for a task that has none. If there is none, it writes the
// explanation to the status only if the explanation has changed.
func (r *run) placeWaiting(t *task) {
	if r.inFuture(r.state.startAfter(t)) {
		return
	}
	n, why := r.findNode(t.revision, t.node)
	if n == nil {
		if t.status == nil || t.status.GetErr() == why.err && t.status.GetUnplaced().EqualVT(why.unplaced) {
			return
		}
		st := r.out.editStatus(t)
		st.State, st.Timestamp, st.Err, st.Unplaced = swarmv1.TaskState_PENDING, r.nowpb, why.err, why.unplaced
		return
	}
	if t.status == nil {
		return // the status has not arrived yet
	}
	r.waiting--
	row := r.out.edit(t)
	row.NodeId, row.AssignedGenericResources = n.id, r.reserve(t.revision, n)
	row.Networks = r.assignAddresses(t.revision, t.id)
	r.claimPorts(t.revision, n, t.id)
	st := r.out.editStatus(t)
	st.State, st.Timestamp, st.Message, st.Err, st.Unplaced = swarmv1.TaskState_ASSIGNED, r.nowpb, messageAssigned, "", nil
}

const (
	messageAssigned = "assigned to a node"
	messagePending  = "pending task scheduling"
)

// createTask creates the task, on a node if one takes it. It returns false, and creates nothing, if
// no node takes the task and maxWaiting tasks of the service already wait. Tasks of global
// services, and tasks that replace another, are created in any case. remaining is how many tasks
// are likely to be created, including this one.
func (r *run) createTask(w *newTask, remaining int) bool {
	var n *node
	var why explanation
	if !w.delayPlacement || !r.inFuture(w.startAfter) {
		n, why = r.findNode(w.revision, w.node)
	}
	if n == nil {
		if r.waiting++; r.waiting > maxWaiting && w.key.number > 0 && w.replaces == "" {
			return false
		}
	}
	row, st := r.out.create(remaining)
	row.Id, row.ServiceId, row.Revision, row.Slot = w.id, r.service.id, w.revision.row.GetNumber(), w.key.number
	row.DesiredState, row.StartAfter, row.Restarts, row.Replaces = w.desired, timestampOf(w.startAfter), w.restarts, w.replaces
	row.Networks, row.JobIteration = w.revision.networks, r.service.row.GetJobStatus().GetJobIteration()
	row.Ordinal = w.ordinal
	row.Update = r.updateStatus().GetStartedVersion()
	if w.revision.row.GetSpec().GetTaskTemplate().GetLogDriver() == nil {
		row.LogDriver = r.state.logDriver
	}
	if w.node != nil {
		row.NodeId = w.node.id
	}
	st.TaskId, st.Timestamp = w.id, r.nowpb
	if n == nil {
		st.State, st.Message, st.Err, st.Unplaced = swarmv1.TaskState_PENDING, w.message(messagePending), why.err, why.unplaced
		return true
	}
	row.NodeId, row.AssignedGenericResources = n.id, r.reserve(w.revision, n)
	st.State, st.Message = swarmv1.TaskState_ASSIGNED, w.message(messageAssigned)
	row.Networks = r.assignAddresses(w.revision, w.id)
	r.claimPorts(w.revision, n, w.id)
	return true
}

// inFuture says whether a time is after now. If so, the service becomes due then.
func (r *run) inFuture(at time.Time) bool {
	if !at.After(r.now) {
		return false
	}
	r.wakeAt(at)
	return true
}

// message returns the status message of the task: what, and if the task replaces another, the
// reason.
func (w *newTask) message(what string) string {
	if w.replaceReason == "" {
		return what
	}
	return what + "; replaces " + w.replaces + ": " + w.replaceReason
}

// claimPorts claims the host ports of the task, so that no other task on the node gets them.
func (r *run) claimPorts(rev *revision, n *node, id string) {
	for _, port := range rev.ports {
		r.out.claim("port/"+n.id+"/"+port, id)
	}
}

// findNode returns the node for one more task of the revision, or an explanation if there is none.
// It also chooses the task's addresses. If only is not nil, no other node is considered.
func (r *run) findNode(rev *revision, only *node) (*node, explanation) {
	if why := r.pickAddresses(rev); why != nil {
		return nil, *why
	}
	if only != nil {
		if rev.checkNode(only, r.tasksOn(rev, only), r.nodesWithoutImage(rev)) == fits {
			return only, explanation{}
		}
		return nil, r.explain(rev, []*node{only})
	}
	p := r.placer(rev)
	if n := p.pick(); n != nil {
		return n, explanation{}
	}
	if p.explanation == nil {
		v := r.explain(rev, r.state.nodeOrder)
		p.explanation = &v
	}
	return nil, *p.explanation
}

// explain is revision.explain with the data of this plan. If nodes could not get the image, the
// service becomes due when the first of them may be tried again.
func (r *run) explain(rev *revision, nodes []*node) explanation {
	noImage := r.nodesWithoutImage(rev)
	for _, t := range noImage {
		r.wakeAt(r.state.reportedAt(t).Add(imageRetry))
	}
	return rev.explain(nodes, func(n *node) uint64 { return r.tasksOn(rev, n) }, noImage)
}

// tasksOn returns how many tasks of the service should run on the node, including the placements of
// this plan. Only max_replicas needs the number; without that limit it returns 0.
func (r *run) tasksOn(rev *revision, n *node) uint64 {
	if rev.maxReplicas == 0 {
		return 0
	}
	count := r.service.tasksOnNode[n]
	for i := r.firstPlacement; i < len(r.placements); i++ {
		if r.placements[i].node == n {
			count++
		}
	}
	return uint64(count)
}

// placer returns the service's placer for a revision. A plan has two of them only if it replaces
// tasks while an update is paused.
func (r *run) placer(rev *revision) *placer {
	for _, p := range r.placers {
		if p.revision == rev {
			return p
		}
	}
	p := r.newPlacer(rev)
	r.placers = append(r.placers, p)
	return p
}

// reserve records a placement of the revision on the node, and returns the generic resources of the
// task.
func (r *run) reserve(rev *revision, n *node) []*swarmv1.GenericResource {
	generic := n.allocateGeneric(rev.generic)
	n.reserved.cpu += rev.need.cpu
	n.reserved.memory += rev.need.memory
	n.reserved.addGeneric(generic)
	n.taskCount++
	for _, port := range rev.ports {
		n.claimPort(port)
	}
	r.placements = append(r.placements, placement{n, rev})
	if generic != nil {
		r.genericAllocs = append(r.genericAllocs, genericAlloc{n, generic})
	}
	return generic
}

// undoPlan takes back all that this plan has counted, so that the state matches the store again.
func (r *run) undoPlan() {
	for i := range r.placements {
		t := &r.placements[i]
		t.node.reserved.cpu -= t.revision.need.cpu
		t.node.reserved.memory -= t.revision.need.memory
		t.node.taskCount--
		for _, port := range t.revision.ports {
			delete(t.node.ports, port)
		}
	}
	for _, g := range r.genericAllocs {
		g.node.reserved.dropGeneric(g.generic)
	}
	for _, l := range r.stopping {
		l.service.tasksOnNode[l.node]++
		l.node.taskCount++
	}
	r.undoLimits()
	r.undoAddresses()
}

func timestampOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
