package cluster

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"swarm/internal/rollout"
	swarmv1 "swarm/proto/swarm/v1"
)

// Task is a task row with its status.
type Task struct {
	ID       string
	Row      *swarmv1.Task
	Status   *swarmv1.TaskStatus // nil: not arrived
	Service  *Service
	Slot     *Slot
	Revision *Revision
	Node     *Node // nil: the task has no node
	// These fields record what count has added for the task. uncount subtracts the same, although
	// the rows of the task may have changed.
	reserves, counted, waiting, failed bool
}

// State returns the state that the task's status reports, and 0 if there is no status.
func (t *Task) State() swarmv1.TaskState { return t.Status.GetState() }

// Desired returns the state that the planner wants of the task.
func (t *Task) Desired() swarmv1.TaskState { return t.Row.GetDesiredState() }

// Wanted says that the task should run, now or later: its desired state is at most RUNNING.
func (t *Task) Wanted() bool { return t.Desired() <= swarmv1.TaskState_RUNNING }

// Ended says that the task has reached a final state.
func (t *Task) Ended() bool { return t.State() > swarmv1.TaskState_RUNNING }

// Running says whether the task's state is RUNNING.
func (t *Task) Running() bool { return t.State() == swarmv1.TaskState_RUNNING }

// Unplaced says that the task has no node yet. No worker has received it, so it can be deleted
// without being stopped.
func (t *Task) Unplaced() bool { return t.State() < swarmv1.TaskState_ASSIGNED }

// Rows returns the task's rows for the rules that do not depend on the planner.
func (t *Task) Rows() rollout.Task {
	return rollout.Task{Row: t.Row, Status: t.Status, Revision: t.Revision.Row}
}

// Failure says that the task failed or was rejected by its node.
func (t *Task) Failure() bool { return t.Rows().Failure() }

func timeOf(ts *timestamppb.Timestamp) time.Time {
	if ts == nil {
		return time.Time{}
	}
	return ts.AsTime()
}

// keyOf returns the key of the slot that a task belongs to.
func keyOf(row *swarmv1.Task) SlotKey {
	if row.GetSlot() != 0 {
		return SlotKey{Number: row.GetSlot()}
	}
	return SlotKey{Node: row.GetNodeId()}
}

// foldTask applies the change of a task row.
func (state *State) foldTask(row *swarmv1.Task, deleted bool) {
	t := state.tasks[row.GetId()]
	if deleted {
		if t != nil {
			state.dropTask(t)
		}
		return
	}
	isNew := t == nil
	if isNew {
		t = &Task{ID: row.GetId(), Service: state.ensureService(row.GetServiceId()), Row: row}
		if st := state.unmatchedStatuses[t.ID]; st != nil {
			t.Status = st
			delete(state.unmatchedStatuses, t.ID)
		}
		state.tasks[t.ID] = t
		t.Slot = t.Service.ensureSlot(keyOf(row))
		t.Slot.insert(t)
	}
	reserved, counted := t.reserves, t.counted
	if !isNew {
		state.uncount(t)
		t.Row = row
	}
	state.setRevision(t, row.GetRevision())
	t.Node = nil
	if row.GetNodeId() != "" {
		t.Node = state.ensureNode(row.GetNodeId())
	}
	state.count(t)
	state.noteFreed(t, reserved, counted)
	state.markDirty(t.Service)
}

// setRevision sets the revision of a task. If the task has moved from another revision, it may
// reserve less now, so waiting tasks are tried again.
func (state *State) setRevision(t *Task, number uint64) {
	was, now := t.Revision, t.Service.ensureRevision(number)
	t.Revision = now
	if was == nil || was == now {
		return
	}
	state.retryWaiting = true
	if was.Row == nil && was.tasks == 0 {
		for n, r := range t.Service.revisions {
			if r == was {
				delete(t.Service.revisions, n)
			}
		}
	}
}

// dropTask removes a task whose row was deleted.
func (state *State) dropTask(t *Task) {
	state.retryWaiting = state.retryWaiting || t.reserves
	state.uncount(t)
	if t.Revision.Row == nil && t.Revision.tasks == 0 {
		delete(t.Service.revisions, t.Row.GetRevision())
	}
	delete(state.tasks, t.ID)
	if t.Status != nil {
		state.unmatchedStatuses[t.ID] = t.Status // until the row of the status is deleted too
	}
	t.Slot.Tasks = slices.DeleteFunc(t.Slot.Tasks, func(o *Task) bool { return o == t })
	if len(t.Slot.Tasks) == 0 {
		t.Service.dropSlot(t.Slot)
	}
	state.forgetNode(t.Node)
	state.markDirty(t.Service)
	state.forgetService(t.Service)
}

// foldTaskStatus applies the change of a status row. The task row may not have arrived.
func (state *State) foldTaskStatus(st *swarmv1.TaskStatus, deleted bool) {
	t := state.tasks[st.GetTaskId()]
	switch {
	case t == nil && deleted:
		delete(state.unmatchedStatuses, st.GetTaskId())
	case t == nil:
		state.unmatchedStatuses[st.GetTaskId()] = st
	case deleted:
		state.setStatus(t, nil)
	default:
		state.setStatus(t, st)
	}
}

// setStatus replaces the status of a task and updates the counters.
func (state *State) setStatus(t *Task, st *swarmv1.TaskStatus) {
	reserved, counted := t.reserves, t.counted
	state.uncount(t)
	t.Status = st
	state.count(t)
	state.noteFreed(t, reserved, counted)
	state.markDirty(t.Service)
}

// noteFreed sets retryWaiting if a change of the task has freed reservations, or has lowered the
// number of tasks on its node. reserved and counted are the task's fields before the change.
func (state *State) noteFreed(t *Task, reserved, counted bool) {
	state.retryWaiting = state.retryWaiting || reserved && !t.reserves || counted && !t.counted
}

func (s *Slot) insert(t *Task) {
	s.Tasks = append(s.Tasks, t)
	s.sortTasks()
}

// sortTasks sorts the slot's tasks, oldest first.
func (s *Slot) sortTasks() {
	slices.SortFunc(s.Tasks, func(a, b *Task) int {
		return cmp.Or(cmp.Compare(a.Row.GetOrdinal(), b.Row.GetOrdinal()), cmp.Compare(a.ID, b.ID))
	})
}

// Newest returns the task that was created last.
func (s *Slot) Newest() *Task { return s.Tasks[len(s.Tasks)-1] }

// count adds the task to the counters of its revision, service and node. uncount subtracts the
// same.
func (state *State) count(t *Task) {
	s := t.Service
	t.Revision.tasks++
	t.waiting = t.Wanted() && t.Unplaced()
	if t.waiting {
		s.Waiting++
		state.waiting[s] = struct{}{}
	}
	t.failed = t.Failure()
	if t.failed {
		s.Failed++
	}
	n := t.Node
	if n == nil {
		return
	}
	n.taskRows[s]++
	t.reserves = !t.Ended() && !t.Unplaced()
	if !t.reserves {
		return
	}
	n.reserved.CPU += t.Revision.Need.CPU
	n.reserved.Memory += t.Revision.Need.Memory
	n.reserved.addGeneric(t.Row.GetAssignedGenericResources())
	t.counted = t.Wanted()
	if t.counted {
		n.TaskCount++
		s.tasksOnNode[n]++
	}
}

func (state *State) uncount(t *Task) {
	s := t.Service
	t.Revision.tasks--
	if t.waiting {
		s.Waiting--
		if s.Waiting == 0 {
			delete(state.waiting, s)
		}
	}
	if t.failed {
		s.Failed--
	}
	n := t.Node
	if n != nil {
		n.taskRows[s]--
		if n.taskRows[s] == 0 {
			delete(n.taskRows, s)
		}
		if t.reserves {
			n.reserved.CPU -= t.Revision.Need.CPU
			n.reserved.Memory -= t.Revision.Need.Memory
			n.reserved.dropGeneric(t.Row.GetAssignedGenericResources())
		}
		if t.counted {
			n.TaskCount--
			s.tasksOnNode[n]--
			if s.tasksOnNode[n] == 0 {
				delete(s.tasksOnNode, n)
			}
		}
	}
	t.waiting, t.failed, t.reserves, t.counted = false, false, false, false
}
