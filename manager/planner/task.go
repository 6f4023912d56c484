package planner

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	swarmv1 "swarm/proto/swarm/v1"
)

// task is a task row and its status.
type task struct {
	id     string
	row    *swarmv1.Task
	status *swarmv1.TaskStatus // nil: not seen
	svc    *service
	slot   *slot
	rev    *revision
	node   *node // nil: none yet
	// What count added and uncount takes back, whatever has changed meanwhile.
	holds, active, waits, failed bool
}

func (t *task) state() swarmv1.TaskState   { return t.status.GetState() }
func (t *task) desired() swarmv1.TaskState { return t.row.GetDesiredState() }

// live: it should run, now or soon.
func (t *task) live() bool { return t.desired() <= swarmv1.TaskState_RUNNING }

// ended: it will not do anything any more.
func (t *task) ended() bool { return t.state() > swarmv1.TaskState_RUNNING }

func (t *task) running() bool { return t.state() == swarmv1.TaskState_RUNNING }

// unplaced: no node has it, so that nobody but the planner knows of it.
func (t *task) unplaced() bool { return t.state() < swarmv1.TaskState_ASSIGNED }

// failure: it ended otherwise than by success or by being asked to.
func (t *task) failure() bool {
	return t.state() == swarmv1.TaskState_FAILED || t.state() == swarmv1.TaskState_REJECTED
}

// endedEarly reports whether the task ended by itself although its restart policy lets no task of the service end.
func (t *task) endedEarly() bool {
	return t.failure() || t.state() == swarmv1.TaskState_COMPLETE && t.rev.restart.condition == swarmv1.RestartPolicy_ANY
}

func instant(ts *timestamppb.Timestamp) time.Time {
	if ts == nil {
		return time.Time{}
	}
	return ts.AsTime()
}

func keyOf(row *swarmv1.Task) slotKey {
	if row.GetSlot() != 0 {
		return slotKey{number: row.GetSlot()}
	}
	return slotKey{node: row.GetNodeId()}
}

func (p *Picture) foldTask(row *swarmv1.Task, gone bool) {
	t := p.tasks[row.GetId()]
	if gone {
		if t != nil {
			p.dropTask(t)
		}
		return
	}
	if t == nil {
		t = &task{id: row.GetId(), svc: p.service(row.GetServiceId()), row: row}
		if st := p.early[t.id]; st != nil {
			t.status = st
			delete(p.early, t.id)
		}
		p.tasks[t.id] = t
		t.slot = t.svc.slot(keyOf(row))
		t.slot.insert(t)
	} else {
		defer p.room(t, t.holds, t.active)
		p.uncount(t)
		t.row = row
	}
	p.revise(t, row.GetRevision())
	t.node = nil
	if row.GetNodeId() != "" {
		t.node = p.node(row.GetNodeId())
	}
	p.count(t)
	p.touch(t.svc)
}

// revise names the task's revision; one that runs may move to another, which may reserve less.
func (p *Picture) revise(t *task, number uint64) {
	was, now := t.rev, t.svc.revision(number)
	t.rev = now
	now.tasks++
	if was == nil || was == now {
		return
	}
	p.roomier = true
	if was.row == nil && was.tasks == 0 {
		for n, r := range t.svc.revs {
			if r == was {
				delete(t.svc.revs, n)
			}
		}
	}
}

func (p *Picture) dropTask(t *task) {
	p.roomier = p.roomier || t.holds
	p.uncount(t)
	if t.rev.row == nil && t.rev.tasks == 0 {
		delete(t.svc.revs, t.row.GetRevision())
	}
	delete(p.tasks, t.id)
	if t.status != nil {
		p.early[t.id] = t.status // until its own row goes
	}
	t.slot.tasks = slices.DeleteFunc(t.slot.tasks, func(o *task) bool { return o == t })
	if len(t.slot.tasks) == 0 {
		t.svc.dropSlot(t.slot)
	}
	p.forget(t.node)
	p.touch(t.svc)
	p.release(t.svc)
}

func (p *Picture) foldStatus(st *swarmv1.TaskStatus, gone bool) {
	t := p.tasks[st.GetTaskId()]
	switch {
	case t == nil && gone:
		delete(p.early, st.GetTaskId())
	case t == nil:
		p.early[st.GetTaskId()] = st
	case gone:
		p.setStatus(t, nil)
	default:
		p.setStatus(t, st)
	}
}

func (p *Picture) setStatus(t *task, st *swarmv1.TaskStatus) {
	defer p.room(t, t.holds, t.active)
	p.uncount(t)
	t.rev.tasks++ // uncount and count move the figures, not the name
	t.status = st
	p.count(t)
	p.touch(t.svc)
}

// room notes that a node may take more than before, given what the task held of it before.
func (p *Picture) room(t *task, held, active bool) {
	p.roomier = p.roomier || held && !t.holds || active && !t.active
}

func (s *slot) insert(t *task) {
	s.tasks = append(s.tasks, t)
	s.sort()
}

// sort keeps the slot's tasks oldest first.
func (s *slot) sort() {
	slices.SortFunc(s.tasks, func(a, b *task) int {
		return cmp.Or(cmp.Compare(a.row.GetOrdinal(), b.row.GetOrdinal()), cmp.Compare(a.id, b.id))
	})
}

// newest is the task that was made last.
func (s *slot) newest() *task { return s.tasks[len(s.tasks)-1] }

// count adds the task to the figures of its node, service and revision; uncount takes exactly that away again.
func (p *Picture) count(t *task) {
	s := t.svc
	t.waits = t.live() && t.unplaced()
	if t.waits {
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
	n.services[s]++
	t.holds = !t.ended() && !t.unplaced()
	if !t.holds {
		return
	}
	n.used.cpu += t.rev.need.cpu
	n.used.memory += t.rev.need.memory
	n.used.addGeneric(t.row.GetAssignedGenericResources())
	t.active = t.live()
	if t.active {
		n.total++
		s.nodes[n]++
	}
}

func (p *Picture) uncount(t *task) {
	s := t.svc
	t.rev.tasks--
	if t.waits {
		if s.waiting--; s.waiting == 0 {
			delete(p.waiting, s)
		}
	}
	if t.failed {
		s.failed--
	}
	n := t.node
	if n != nil {
		if n.services[s]--; n.services[s] == 0 {
			delete(n.services, s)
		}
		if t.holds {
			n.used.cpu -= t.rev.need.cpu
			n.used.memory -= t.rev.need.memory
			n.used.dropGeneric(t.row.GetAssignedGenericResources())
		}
		if t.active {
			n.total--
			if s.nodes[n]--; s.nodes[n] == 0 {
				delete(s.nodes, n)
			}
		}
	}
	t.waits, t.failed, t.holds, t.active = false, false, false, false
}
