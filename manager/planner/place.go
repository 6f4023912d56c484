package planner

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"swarm/internal/ipam"
	"swarm/manager/planner/cluster"
	"swarm/manager/planner/placement"
	swarmv1 "swarm/proto/swarm/v1"
)

// taskPlan is a task that this plan creates.
type taskPlan struct {
	key        cluster.SlotKey
	id         string
	ordinal    uint64
	replaces   string
	revision   *cluster.Revision
	node       *cluster.Node // the only node allowed, in a global service; nil: any node
	desired    swarmv1.TaskState
	startAfter time.Time
	// delayPlacement: the task gets no node before startAfter.
	delayPlacement bool
	restarts       *swarmv1.RestartHistory
	replaceReason  string
	atom           int // the atom of the slot's other changes (see emitter); 0: the slot is new
}

// placeTasks finds nodes for tasks: first for the tasks that waited already, then for the new ones.
func (r *run) placeTasks() {
	if r.service.Waiting > 0 {
		for i := range r.slotPlans {
			sp := &r.slotPlans[i]
			if t := sp.head; t != nil && t.Unplaced() && !r.deleted[t.ID] && sp.action == keep {
				r.out.atom = sp.atom
				r.placeWaiting(t)
			}
		}
	}
	r.out.grow(2 * len(r.newTasks))
	for i := range r.newTasks {
		w := &r.newTasks[i]
		if w.atom != 0 {
			r.out.atom = w.atom
		} else {
			r.out.newAtom()
		}
		r.createTask(w, len(r.newTasks)-i)
	}
	r.createMissing()
}

// maxWaiting limits the tasks of a service that exist without a node. Further missing slots get no
// task, because they would all wait for the same reason. Without the limit, 5,000,000 waiting tasks
// took 4.9 GB.
const maxWaiting = 1000

// createMissing creates the tasks of the slots that reconcile only counted. It stops when
// maxWaiting tasks of the service wait for a node.
func (r *run) createMissing() {
	for ; r.added.more > 0; r.added.more-- {
		w := r.planTask(cluster.SlotKey{Number: r.added.next}, nil)
		r.out.newAtom()
		if !r.createTask(&w, r.added.more) {
			return
		}
		r.added.next++
	}
}

// placeWaiting places a task that waits for a node. If no node takes the task, it writes the
// explanation to the task's status, unless the status has it already.
func (r *run) placeWaiting(t *cluster.Task) {
	if r.wakeIfFuture(r.state.StartAfter(t)) {
		return
	}
	if t.Status == nil {
		return // the status has not arrived yet
	}
	n, addrs, why := r.findNode(t.Revision, t.Slot.Key, t.Node)
	if n == nil {
		if t.Status.GetErr() == why.Err && t.Status.GetUnplaced().EqualVT(why.Unplaced) {
			return
		}
		st := r.out.editStatus(t)
		st.State, st.Timestamp, st.Err, st.Unplaced = swarmv1.TaskState_PENDING, r.nowpb, why.Err, why.Unplaced
		return
	}
	r.waiting--
	row := r.out.edit(t)
	row.NodeId, row.AssignedGenericResources = n.ID, r.draft.Place(t.Revision, n)
	row.Networks = r.assignAddresses(t.Revision, addrs, t.ID)
	r.claimPorts(t.Revision, n, t.ID)
	r.useVolumes(t.Revision, t.Slot.Key, n)
	st := r.out.editStatus(t)
	st.State, st.Timestamp, st.Message, st.Err, st.Unplaced = swarmv1.TaskState_ASSIGNED, r.nowpb, messageAssigned, "", nil
}

const (
	messageAssigned = "assigned to a node"
	messagePending  = "pending task scheduling"
)

// createTask creates a task, on a node if one takes it, and else as a waiting task. If no node
// takes the task and maxWaiting tasks of the service already wait, it creates nothing and returns
// false. Tasks of global services and tasks that replace another one are always created.
// remaining is for emitter.create.
func (r *run) createTask(w *taskPlan, remaining int) bool {
	var n *cluster.Node
	var addrs []cluster.Address
	why := &placement.Explanation{}
	if !w.delayPlacement || !r.wakeIfFuture(w.startAfter) {
		n, addrs, why = r.findNode(w.revision, w.key, w.node)
	}
	if n == nil {
		if r.waiting >= maxWaiting && w.key.Number > 0 && w.replaces == "" {
			return false
		}
		r.waiting++
	}
	row, st := r.out.create(remaining)
	row.Id, row.ServiceId, row.Revision, row.Slot = w.id, r.service.ID, w.revision.Row.GetNumber(), w.key.Number
	row.DesiredState, row.StartAfter, row.Restarts, row.Replaces = w.desired, timestampOf(w.startAfter), w.restarts, w.replaces
	row.Networks, row.JobIteration = w.revision.Networks, r.service.Row.GetJobStatus().GetJobIteration()
	row.Ordinal = w.ordinal
	row.Update = r.updateVersion
	if w.revision.Row.GetSpec().GetTaskTemplate().GetLogDriver() == nil {
		row.LogDriver = r.state.LogDriver
	}
	if w.node != nil {
		row.NodeId = w.node.ID
	}
	st.TaskId, st.Timestamp = w.id, r.nowpb
	if n == nil {
		st.State, st.Message, st.Err, st.Unplaced = swarmv1.TaskState_PENDING, w.message(messagePending), why.Err, why.Unplaced
		return true
	}
	row.NodeId, row.AssignedGenericResources = n.ID, r.draft.Place(w.revision, n)
	st.State, st.Message = swarmv1.TaskState_ASSIGNED, w.message(messageAssigned)
	row.Networks = r.assignAddresses(w.revision, addrs, w.id)
	r.claimPorts(w.revision, n, w.id)
	r.useVolumes(w.revision, w.key, n)
	return true
}

// message returns the status message of the task: the text what, and the reason if the task
// replaces another task.
func (w *taskPlan) message(what string) string {
	if w.replaceReason == "" {
		return what
	}
	return what + "; replaces " + w.replaces + ": " + w.replaceReason
}

// claimPorts claims the host ports of the task, so that no other task on the node gets them.
func (r *run) claimPorts(rev *cluster.Revision, n *cluster.Node, id string) {
	for _, port := range rev.Ports {
		r.out.claim(port.On(n.ID).String(), id)
	}
}

// findNode returns the node for one more task of the revision and the task's addresses, or an
// explanation if there is no such node or address. If only is not nil, no other node is considered.
func (r *run) findNode(rev *cluster.Revision, slot cluster.SlotKey, only *cluster.Node) (*cluster.Node, []cluster.Address, *placement.Explanation) {
	addrs, problem := r.draft.FindAddresses(rev)
	if problem != "" {
		return nil, nil, placement.NoAddress(problem)
	}
	n, why := r.finder.Find(rev, slot, only)
	if why != nil && !why.RetryAt.IsZero() {
		r.wakeAt(why.RetryAt)
	}
	return n, addrs, why
}

// assignAddresses claims the addresses for the task with the given id. It returns the task's
// network attachments, with the addresses on each network.
func (r *run) assignAddresses(rev *cluster.Revision, addrs []cluster.Address, id string) []*swarmv1.NetworkAttachment {
	if len(addrs) == 0 {
		return rev.Networks
	}
	out := make([]*swarmv1.NetworkAttachment, len(rev.Networks))
	for i, use := range rev.Networks {
		out[i] = &swarmv1.NetworkAttachment{NetworkId: use.GetNetworkId(), Aliases: use.GetAliases(), DriverOpts: use.GetDriverOpts()}
		for _, a := range addrs {
			if a.NetworkID() == use.GetNetworkId() {
				out[i].Addresses = append(out[i].Addresses, a.Prefix())
				r.allocate(a, ipam.OwnerTask+id)
			}
		}
	}
	return out
}

// allocate claims an address for an owner.
func (r *run) allocate(a cluster.Address, owner string) {
	r.draft.Allocate(a)
	r.out.claim(a.Key(), owner)
}

// writeCursors writes the cursors that have moved since its last call.
func (r *run) writeCursors() {
	for _, c := range r.draft.MovedCursors() {
		r.out.writeCursor(c)
	}
}

func timestampOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
