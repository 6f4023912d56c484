package cluster

import (
	"slices"

	swarmv1 "swarm/proto/swarm/v1"
)

// Draft adds to the State what the current plan has decided, so that later decisions of the same
// plan take it into account: reservations, host ports and addresses of the tasks that the plan
// places, and the numbers of tasks by node. The Draft remembers these changes, and Undo takes all
// of them back at the end of the plan, because a change counts only after the store has committed
// it and Apply has received it. A State has at most one Draft that is not undone, and Apply must
// not be called before Undo.
type Draft struct {
	state      *State
	placements []placement
	generic    []genericAlloc
	stopping   []*Task
	resized    []extraReservation
	volumes    []drawnVolume
	addressDraft
}

// placement is one placement of a draft.
type placement struct {
	revision *Revision
	node     *Node
}

// genericAlloc holds the generic resources of one placement.
type genericAlloc struct {
	node    *Node
	generic []*swarmv1.GenericResource
}

// extraReservation is what a running task reserves on its node in addition, after it has moved to
// another revision.
type extraReservation struct {
	service     *Service
	node        *Node
	cpu, memory int64
}

// Draft begins a draft.
func (state *State) Draft() *Draft {
	state.sortNodes()
	return &Draft{state: state}
}

// Place counts a new task of the revision on the node, and returns the generic resources that the
// task gets. The caller has checked that the node has room. Place does not change
// Service.TasksOn(n), because that would add a third to the cost of a placement. A caller that
// needs the number must add the tasks that it has placed.
func (d *Draft) Place(rev *Revision, n *Node) []*swarmv1.GenericResource {
	generic := n.allocateGeneric(rev.Generic)
	n.reserved.CPU += rev.Need.CPU
	n.reserved.Memory += rev.Need.Memory
	n.reserved.addGeneric(generic)
	n.TaskCount++
	for _, port := range rev.Ports {
		n.claimPort(port)
	}
	d.placements = append(d.placements, placement{rev, n})
	if generic != nil {
		d.generic = append(d.generic, genericAlloc{n, generic})
	}
	return generic
}

// Stop subtracts the task from the tasks of its node. A second call for the task has no effect. The
// task keeps its reservation until it has ended.
func (d *Draft) Stop(t *Task) {
	if !t.counted {
		return
	}
	t.counted = false
	t.Service.tasksOnNode[t.Node]--
	t.Node.TaskCount--
	d.stopping = append(d.stopping, t)
}

// Resize reserves what the task needs in addition when it moves to the given revision, and returns
// true. If its node does not have that much, Resize reserves nothing and returns false.
func (d *Draft) Resize(t *Task, rev *Revision) bool {
	more := extraReservation{
		service: t.Service, node: t.Node,
		cpu: max(0, rev.Need.CPU-t.Revision.Need.CPU), memory: max(0, rev.Need.Memory-t.Revision.Need.Memory),
	}
	if t.reserves && !t.Node.hasRoomFor(more) {
		return false
	}
	t.Node.reserved.CPU += more.cpu
	t.Node.reserved.Memory += more.memory
	d.resized = append(d.resized, more)
	return true
}

// UndoResize takes back what Resize has reserved for tasks of the service.
func (d *Draft) UndoResize(s *Service) {
	d.resized = slices.DeleteFunc(d.resized, func(more extraReservation) bool {
		if more.service == s {
			more.release()
		}
		return more.service == s
	})
}

func (more extraReservation) release() {
	more.node.reserved.CPU -= more.cpu
	more.node.reserved.Memory -= more.memory
}

// hasRoomFor says whether the node has room for the additional reservation.
func (n *Node) hasRoomFor(more extraReservation) bool {
	return (more.cpu == 0 || n.reserved.CPU+more.cpu <= n.capacity.CPU) &&
		(more.memory == 0 || n.reserved.Memory+more.memory <= n.capacity.Memory)
}

// Undo takes back everything that the draft has counted. Afterwards the State matches the store
// again.
func (d *Draft) Undo() {
	for i := range d.placements {
		p := &d.placements[i]
		p.node.reserved.CPU -= p.revision.Need.CPU
		p.node.reserved.Memory -= p.revision.Need.Memory
		p.node.TaskCount--
		for _, port := range p.revision.Ports {
			delete(p.node.ports, port)
		}
	}
	for _, g := range d.generic {
		g.node.reserved.dropGeneric(g.generic)
	}
	for _, t := range d.stopping {
		t.counted = true
		t.Service.tasksOnNode[t.Node]++
		t.Node.TaskCount++
	}
	for _, more := range d.resized {
		more.release()
	}
	d.undoVolumes()
	d.undoAddresses()
}
