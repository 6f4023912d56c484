package planner

import (
	"fmt"
	"strings"

	swarmv1 "swarm/proto/swarm/v1"
)

// rowsOfTasks returns the tasks by id. The model replaces rows and does not edit them.
func (m *model) rowsOfTasks() map[string]*swarmv1.Task {
	out := map[string]*swarmv1.Task{}
	for _, t := range m.tasks() {
		out[t.Id] = t
	}
	return out
}

func (m *model) revisionOf(service string, number uint64) *swarmv1.Revision {
	rev, _ := m.rows[fmt.Sprintf("4/%s/%010d", service, number)].(*swarmv1.Revision)
	return rev
}

// fits says whether a node satisfies the constraints of a revision. The model has constraints on
// the label zone only.
func fits(rev *swarmv1.Revision, node *swarmv1.Node) bool {
	for _, c := range rev.Spec.GetTaskTemplate().GetPlacement().GetConstraints() {
		if zone, ok := strings.CutPrefix(c, "node.labels.zone!="); ok && node.GetSpec().GetLabels()["zone"] == zone {
			return false
		}
	}
	return true
}

// checkPlacements tests the nodes that a plan has chosen: each is available, satisfies the
// constraints, and has no more tasks of the service than max_replicas allows.
func (m *model) checkPlacements(before map[string]*swarmv1.Task) {
	m.t.Helper()
	for id, t := range m.rowsOfTasks() {
		if t.NodeId == "" || m.status(id).State != swarmv1.TaskState_ASSIGNED || before[id] != nil {
			continue
		}
		node, _ := m.rows["1/"+t.NodeId].(*swarmv1.Node)
		state, _ := m.rows["2/"+t.NodeId].(*swarmv1.NodeState)
		rev := m.revisionOf(t.ServiceId, t.Revision)
		if node.GetSpec().GetAvailability() != swarmv1.NodeSpec_ACTIVE || state.GetState() != swarmv1.NodeState_READY || !fits(rev, node) {
			m.t.Fatalf("task %s is placed on node %s, which is not suitable:\n%s", id, t.NodeId, m)
		}
		limit := rev.Spec.GetTaskTemplate().GetPlacement().GetMaxReplicas()
		if n := m.tasksOn(t.ServiceId, t.NodeId); limit > 0 && n > limit {
			m.t.Fatalf("node %s has %d tasks of service %s, at most %d are allowed:\n%s", t.NodeId, n, t.ServiceId, limit, m)
		}
	}
}

// tasksOn counts the tasks of a service that are on a node and are to run there.
func (m *model) tasksOn(service, node string) (n uint64) {
	for id, t := range m.rowsOfTasks() {
		st := m.status(id).State
		if t.ServiceId == service && t.NodeId == node && t.DesiredState <= swarmv1.TaskState_RUNNING && st >= swarmv1.TaskState_ASSIGNED && st <= swarmv1.TaskState_RUNNING {
			n++
		}
	}
	return n
}

// checkMoves tests that a plan has stopped no running task without a reason. A plan changes no
// status of a running task.
func (m *model) checkMoves(before map[string]*swarmv1.Task) {
	m.t.Helper()
	after := m.rowsOfTasks()
	for id, t := range before {
		if now := after[id]; now != nil && now.DesiredState <= swarmv1.TaskState_RUNNING {
			continue
		}
		if t.DesiredState == swarmv1.TaskState_RUNNING && m.status(id).GetState() == swarmv1.TaskState_RUNNING && !m.mayStop(before, t) {
			m.t.Fatalf("task %s stops without a reason:\n%s", id, m)
		}
	}
}

// mayStop says whether there is a reason to stop a task that ran before the plan.
func (m *model) mayStop(before map[string]*swarmv1.Task, t *swarmv1.Task) bool {
	svc := m.service(t.ServiceId)
	node, _ := m.rows["1/"+t.NodeId].(*swarmv1.Node)
	state, _ := m.rows["2/"+t.NodeId].(*swarmv1.NodeState)
	if svc == nil || svc.PendingDelete || node == nil || state.GetState() != swarmv1.NodeState_READY || node.Spec.Availability == swarmv1.NodeSpec_DRAIN {
		return true
	}
	current := m.revisionOf(svc.Id, svc.Revision)
	rev := m.revisionOf(svc.Id, t.Revision)
	if rev == nil || t.Revision != svc.Revision || m.status(t.Id).GetRefusedRevision() == t.Revision || !fits(current, node) {
		return true // An update to the current revision, or to its limits.
	}
	if run := svc.GetJobStatus(); run.GetEnded() || run.GetJobIteration() != t.GetJobIteration() || m.leaves(t.NodeId) {
		return true
	}
	slots := map[uint64]bool{}
	for _, o := range before {
		if o.ServiceId != svc.Id || o.DesiredState > swarmv1.TaskState_RUNNING {
			continue
		}
		slots[o.Slot] = true
		if o.Id != t.Id && o.Slot == t.Slot && (t.Slot != 0 || o.NodeId == t.NodeId) {
			return true // The other task of a start-first replacement.
		}
	}
	replicated := current.Spec.GetMode().GetReplicated()
	return replicated != nil && uint64(len(slots)) > replicated.GetReplicas() // scaled down
}

// leaves says whether a volume of the node is being moved to another one.
func (m *model) leaves(node string) bool {
	for key, row := range m.rows {
		if strings.HasPrefix(key, "12/"+node+"/") && row.(*swarmv1.Volume).GetMove() != nil {
			return true
		}
	}
	return false
}
