package planner

import (
	"cmp"
	"slices"

	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// absent is the precondition of every new row. All changes share it, so nothing may modify it.
var absent = &swarmv1.Change_IfAbsent{IfAbsent: true}

// emitter collects the changes of one service. A plan writes a row at most once: later edits of a
// row go into the change of the first edit.
//
// The changes of a large service need several groups, but the store must apply all changes of one
// slot together. These form an atom, which is never split. Groups hold atoms in the order of their
// numbers. Atom 0 is the service's own row. Every slot gets an atom from newAtom: first the slots
// that have tasks, in key order, then the slots that the plan adds. The last atom holds the
// cursors.
type emitter struct {
	changes  []*swarmv1.Change
	atoms    []int // the atom of each change
	atom     int   // the atom to which add assigns changes
	lastAtom int   // the highest number that newAtom has returned
	tasks    map[string]*swarmv1.Change
	statuses map[string]*swarmv1.Change
	volumes  map[string]*swarmv1.Change
	slab     []newRows
}

// newRows is all the memory that the rows and changes of a new task need, in one piece. The newRows
// of slabSize tasks share one allocation. With an allocation for each message,
// BenchmarkPlacement/100k_1k takes 99 ms of CPU time instead of 67 ms.
type newRows struct {
	task       swarmv1.Task
	status     swarmv1.TaskStatus
	changes    [2]swarmv1.Change
	objects    [2]swarmv1.Object
	puts       [2]swarmv1.Change_Put
	taskCase   swarmv1.Object_Task
	statusCase swarmv1.Object_TaskStatus
}

// slabSize limits how many newRows share one allocation. One row in use keeps the whole allocation
// alive.
const slabSize = 32

func (e *emitter) reset() {
	*e = emitter{slab: e.slab}
}

// grow reserves memory for n more changes.
func (e *emitter) grow(n int) {
	e.changes = slices.Grow(e.changes, n)
	e.atoms = slices.Grow(e.atoms, n)
}

// newAtom begins a new atom, to which the next changes belong, and returns its number.
func (e *emitter) newAtom() int {
	e.lastAtom++
	e.atom = e.lastAtom
	return e.atom
}

// add adds a change to the current atom.
func (e *emitter) add(c *swarmv1.Change) {
	e.changes = append(e.changes, c)
	e.atoms = append(e.atoms, e.atom)
}

// create adds the rows of a new task, which the caller then fills in. remaining is how many tasks
// the caller expects to create, including this one. Only the size of an allocation depends on it.
func (e *emitter) create(remaining int) (*swarmv1.Task, *swarmv1.TaskStatus) {
	if len(e.slab) == 0 {
		e.slab = make([]newRows, min(max(remaining, 1), slabSize))
	}
	c := &e.slab[0]
	e.slab = e.slab[1:]
	c.taskCase.Task, c.statusCase.TaskStatus = &c.task, &c.status
	c.objects[0].Object, c.objects[1].Object = &c.taskCase, &c.statusCase
	for i := range c.changes {
		c.puts[i].Put = &c.objects[i]
		c.changes[i].Precondition, c.changes[i].Op = absent, &c.puts[i]
		e.add(&c.changes[i])
	}
	return &c.task, &c.status
}

// edit returns the copy of the task's row that this plan writes. The caller may change it.
func (e *emitter) edit(t *cluster.Task) *swarmv1.Task {
	if c := e.tasks[t.ID]; c != nil {
		return c.GetPut().GetTask()
	}
	row := t.Row.CloneVT()
	c := putIfUnchanged(row.GetMeta(), &swarmv1.Object{Object: &swarmv1.Object_Task{Task: row}})
	if e.tasks == nil {
		e.tasks = map[string]*swarmv1.Change{}
	}
	e.tasks[t.ID] = c
	e.add(c)
	return row
}

// editStatus returns the copy of the task's status that this plan writes. The task must have a
// status.
func (e *emitter) editStatus(t *cluster.Task) *swarmv1.TaskStatus {
	if c := e.statuses[t.ID]; c != nil {
		return c.GetPut().GetTaskStatus()
	}
	row := t.Status.CloneVT()
	c := putIfUnchanged(row.GetMeta(), &swarmv1.Object{Object: &swarmv1.Object_TaskStatus{TaskStatus: row}})
	if e.statuses == nil {
		e.statuses = map[string]*swarmv1.Change{}
	}
	e.statuses[t.ID] = c
	e.add(c)
	return row
}

// service adds the write of the service's row.
func (e *emitter) service(row *swarmv1.Service) {
	e.atom = 0
	e.add(putIfUnchanged(row.GetMeta(), &swarmv1.Object{Object: &swarmv1.Object_Service{Service: row}}))
}

// claim adds a new claim. The store rejects the group if the claim exists.
func (e *emitter) claim(key, owner string) {
	c := &swarmv1.Claim{Key: key, Owner: owner}
	e.add(&swarmv1.Change{
		Precondition: absent,
		Op:           &swarmv1.Change_Put{Put: &swarmv1.Object{Object: &swarmv1.Object_Claim{Claim: c}}},
	})
}

// volume adds the write of a volume's row, or replaces the row that this plan writes already. A row
// without meta is new.
func (e *emitter) volume(row *swarmv1.Volume) {
	key, put := table.Key(row), &swarmv1.Change_Put{Put: &swarmv1.Object{Object: &swarmv1.Object_Volume{Volume: row}}}
	if c := e.volumes[key]; c != nil {
		c.Op = put
		return
	}
	c := &swarmv1.Change{Precondition: absent, Op: put}
	if m := row.GetMeta(); m != nil {
		c.Precondition = &swarmv1.Change_IfVersion{IfVersion: m.GetVersion()}
	}
	if e.volumes == nil {
		e.volumes = map[string]*swarmv1.Change{}
	}
	e.volumes[key] = c
	e.add(c)
}

// writeCursor adds the write of a cursor. It has no precondition, so it also overwrites a cursor
// that has changed since this plan read it.
func (e *emitter) writeCursor(c *swarmv1.Claim) {
	e.add(&swarmv1.Change{Op: &swarmv1.Change_Put{Put: &swarmv1.Object{Object: &swarmv1.Object_Claim{Claim: c}}}})
}

// putIfUnchanged returns the write of a row. The store rejects the group if the row's version is
// not the version in m, which this plan has read.
func putIfUnchanged(m *swarmv1.Meta, o *swarmv1.Object) *swarmv1.Change {
	return &swarmv1.Change{Precondition: &swarmv1.Change_IfVersion{IfVersion: m.GetVersion()}, Op: &swarmv1.Change_Put{Put: o}}
}

// deleteTask adds the deletion of the task's row and status. Earlier edits of these rows become
// deletions.
func (e *emitter) deleteTask(t *cluster.Task) {
	if c := e.tasks[t.ID]; c != nil {
		c.Op = deletion(table.Task, t.ID)
	} else {
		e.deleteIfUnchanged(table.Task, t.ID, t.Row.GetMeta())
	}
	switch c := e.statuses[t.ID]; {
	case c != nil:
		c.Op = deletion(table.TaskStatus, t.ID)
	case t.Status != nil && t.Ended():
		e.deleteIfUnchanged(table.TaskStatus, t.ID, t.Status.GetMeta())
	case t.Status != nil:
		// The worker may report at any time. With a version as precondition, such a report would
		// make the store reject the group.
		e.add(&swarmv1.Change{Op: deletion(table.TaskStatus, t.ID)})
	}
}

func deletion(id table.ID, key string) *swarmv1.Change_Delete {
	return &swarmv1.Change_Delete{Delete: &swarmv1.ObjectRef{Table: uint32(id), Key: key}}
}

// deleteIfUnchanged adds the deletion of a row. The store rejects the group if the row's version is
// not the version in m, which this plan has read.
func (e *emitter) deleteIfUnchanged(id table.ID, key string, m *swarmv1.Meta) {
	e.add(&swarmv1.Change{Precondition: &swarmv1.Change_IfVersion{IfVersion: m.GetVersion()}, Op: deletion(id, key)})
}

// groups divides the changes into groups of groupSize or a little more. It never splits an atom.
func (e *emitter) groups(serviceID string) []Group {
	if len(e.changes) == 0 {
		return nil
	}
	e.sortByAtom()
	var out []Group
	from := 0
	for i := range e.changes {
		if i-from >= groupSize && e.atoms[i] != e.atoms[i-1] {
			out = append(out, Group{serviceID, e.changes[from:i:i]})
			from = i
		}
	}
	return append(out, Group{serviceID, e.changes[from:]})
}

// sortByAtom brings the changes of every atom together. Most plans have added them in that order.
func (e *emitter) sortByAtom() {
	if slices.IsSorted(e.atoms) {
		return
	}
	type placed struct {
		atom   int
		change *swarmv1.Change
	}
	list := make([]placed, len(e.changes))
	for i, c := range e.changes {
		list[i] = placed{e.atoms[i], c}
	}
	slices.SortStableFunc(list, func(a, b placed) int { return cmp.Compare(a.atom, b.atom) })
	for i, l := range list {
		e.changes[i], e.atoms[i] = l.change, l.atom
	}
}
