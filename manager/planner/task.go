package planner

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"swarm/internal/rollout"
	swarmv1 "swarm/proto/swarm/v1"
)

// task is a task row with its status.
type task struct {
	id       string
	row      *swarmv1.Task
	status   *swarmv1.TaskStatus // nil: not arrived
	service  *service
	slot     *slot
	revision *revision
	node     *node // nil: the task has no node
	// These fields record what count added, so that uncount subtracts the same although the task
	// may have changed.
	reserves, counted, waiting, failed bool
}

func (t *task) state() swarmv1.TaskState   { return t.status.GetState() }
func (t *task) desired() swarmv1.TaskState { return t.row.GetDesiredState() }

// wanted says that the task should run, now or later: its desired state is at most RUNNING.
func (t *task) wanted() bool { return t.desired() <= swarmv1.TaskState_RUNNING }

// ended says that the task has reached a final state.
func (t *task) ended() bool { return t.state() > swarmv1.TaskState_RUNNING }

func (t *task) running() bool { return t.state() == swarmv1.TaskState_RUNNING }

// unplaced says that no node has been sent the task, so it can be deleted without being stopped.
func (t *task) unplaced() bool { return t.state() < swarmv1.TaskState_ASSIGNED }

// rows returns the task's rows for the rules that do not depend on the planner.
func (t *task) rows() rollout.Task {
	return rollout.Task{Row: t.row, Status: t.status, Revision: t.revision.row}
}

// failure says that the task failed or was rejected by its node.
func (t *task) failure() bool { return t.rows().Failure() }

func timeOf(ts *timestamppb.Timestamp) time.Time {
	if ts == nil {
		return time.Time{}
	}
	return ts.AsTime()
}

// keyOf returns the key of the slot that a task belongs to.
func keyOf(row *swarmv1.Task) slotKey {
	if row.GetSlot() != 0 {
		return slotKey{number: row.GetSlot()}
	}
	return slotKey{node: row.GetNodeId()}
}

// foldTask applies the change of a task row.
func (p *State) foldTask(row *swarmv1.Task, deleted bool) {
	t := p.tasks[row.GetId()]
	if deleted {
		if t != nil {
			p.dropTask(t)
		}
		return
	}
	if t == nil {
		t = &task{id: row.GetId(), service: p.ensureService(row.GetServiceId()), row: row}
		if st := p.unmatchedStatuses[t.id]; st != nil {
			t.status = st
			delete(p.unmatchedStatuses, t.id)
		}
		p.tasks[t.id] = t
		t.slot = t.service.ensureSlot(keyOf(row))
		t.slot.insert(t)
	} else {
		defer p.noteFreed(t, t.reserves, t.counted)
		p.uncount(t)
		t.row = row
	}
	p.setRevision(t, row.GetRevision())
	t.node = nil
	if row.GetNodeId() != "" {
		t.node = p.ensureNode(row.GetNodeId())
	}
	p.count(t)
	p.markDirty(t.service)
}

// setRevision sets the revision of a task. A running task may move to another revision, which may
// reserve less.
func (p *State) setRevision(t *task, number uint64) {
	was, now := t.revision, t.service.ensureRevision(number)
	t.revision = now
	now.tasks++
	if was == nil || was == now {
		return
	}
	p.retryWaiting = true
	if was.row == nil && was.tasks == 0 {
		for n, r := range t.service.revisions {
			if r == was {
				delete(t.service.revisions, n)
			}
		}
	}
}

// dropTask removes a task whose row was deleted.
func (p *State) dropTask(t *task) {
	p.retryWaiting = p.retryWaiting || t.reserves
	p.uncount(t)
	if t.revision.row == nil && t.revision.tasks == 0 {
		delete(t.service.revisions, t.row.GetRevision())
	}
	delete(p.tasks, t.id)
	if t.status != nil {
		p.unmatchedStatuses[t.id] = t.status // until the row of the status is deleted too
	}
	t.slot.tasks = slices.DeleteFunc(t.slot.tasks, func(o *task) bool { return o == t })
	if len(t.slot.tasks) == 0 {
		t.service.dropSlot(t.slot)
	}
	p.forgetNode(t.node)
	p.markDirty(t.service)
	p.forgetService(t.service)
}

// foldTaskStatus applies the change of a status row. The task row may not have arrived.
func (p *State) foldTaskStatus(st *swarmv1.TaskStatus, deleted bool) {
	t := p.tasks[st.GetTaskId()]
	switch {
	case t == nil && deleted:
		delete(p.unmatchedStatuses, st.GetTaskId())
	case t == nil:
		p.unmatchedStatuses[st.GetTaskId()] = st
	case deleted:
		p.setStatus(t, nil)
	default:
		p.setStatus(t, st)
	}
}

// setStatus replaces the status of a task and updates the counters.
func (p *State) setStatus(t *task, st *swarmv1.TaskStatus) {
	defer p.noteFreed(t, t.reserves, t.counted)
	p.uncount(t)
	// uncount has decremented the revision's tasks, and count does not increment it
	t.revision.tasks++
	t.status = st
	p.count(t)
	p.markDirty(t.service)
}

// noteFreed sets retryWaiting if a change of the task has freed reservations, or has lowered the
// number of tasks that count on its node. reserved and counted are the task's fields before the
// change.
func (p *State) noteFreed(t *task, held, active bool) {
	p.retryWaiting = p.retryWaiting || held && !t.reserves || active && !t.counted
}

func (s *slot) insert(t *task) {
	s.tasks = append(s.tasks, t)
	s.sortTasks()
}

// sortTasks sorts the slot's tasks, oldest first.
func (s *slot) sortTasks() {
	slices.SortFunc(s.tasks, func(a, b *task) int {
		return cmp.Or(cmp.Compare(a.row.GetOrdinal(), b.row.GetOrdinal()), cmp.Compare(a.id, b.id))
	})
}

// newest returns the task that was created last.
func (s *slot) newest() *task { return s.tasks[len(s.tasks)-1] }

// count adds the task to the counters of its node and service. uncount subtracts the same, and also
// decrements the tasks of the revision.
func (p *State) count(t *task) {
	s := t.service
	t.waiting = t.wanted() && t.unplaced()
	if t.waiting {
		s.waiting++
		p.waiting[s] = struct{}{}
	}
	t.failed = t.failure()
	if t.failed {
		s.failed++
	}
	n := t.node
	if n == nil {
		return
	}
	n.taskRows[s]++
	t.reserves = !t.ended() && !t.unplaced()
	if !t.reserves {
		return
	}
	n.reserved.cpu += t.revision.need.cpu
	n.reserved.memory += t.revision.need.memory
	n.reserved.addGeneric(t.row.GetAssignedGenericResources())
	t.counted = t.wanted()
	if t.counted {
		n.taskCount++
		s.tasksOnNode[n]++
	}
}

func (p *State) uncount(t *task) {
	s := t.service
	t.revision.tasks--
	if t.waiting {
		if s.waiting--; s.waiting == 0 {
			delete(p.waiting, s)
		}
	}
	if t.failed {
		s.failed--
	}
	n := t.node
	if n != nil {
		if n.taskRows[s]--; n.taskRows[s] == 0 {
			delete(n.taskRows, s)
		}
		if t.reserves {
			n.reserved.cpu -= t.revision.need.cpu
			n.reserved.memory -= t.revision.need.memory
			n.reserved.dropGeneric(t.row.GetAssignedGenericResources())
		}
		if t.counted {
			n.taskCount--
			if s.tasksOnNode[n]--; s.tasksOnNode[n] == 0 {
				delete(s.tasksOnNode, n)
			}
		}
	}
	t.waiting, t.failed, t.reserves, t.counted = false, false, false, false
}
