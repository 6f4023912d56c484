package planner

import (
	"cmp"
	"fmt"
	"slices"

	"swarm/internal/spec"
	"swarm/manager/planner/cluster"
	"swarm/manager/planner/placement"
	swarmv1 "swarm/proto/swarm/v1"
)

// planReplicated adjusts the number of slots of a replicated service to its number of replicas.
func (r *run) planReplicated() {
	used := 0
	for i := range r.views {
		v := &r.views[i]
		if v.slot.Key.Node != "" {
			v.action = drop // The slot is of the time when the service was global.
		}
		if v.action != drop {
			used++
		}
	}
	if r.service.Job() {
		r.planJob()
		return
	}
	// The number of replicas fits an int because spec limits it.
	switch target := int(min(r.service.Mode().GetReplicated().GetReplicas(), spec.MaxReplicas)); {
	case used > target:
		r.shrink(used - target)
	case used < target:
		r.grow(target - used)
	}
}

// grow adds n slots with the lowest free numbers. It first reuses a slot that is being dropped, if
// its number is low enough; the new task of that slot waits until the old one has stopped. Slots
// with numbers above all known ones are left to createMissing.
func (r *run) grow(n int) {
	number := uint64(1)
	known := len(r.views)
	for i := 0; n > 0; number++ {
		for i < known && r.views[i].slot.Key.Number < number {
			i++
		}
		if i == known {
			r.missingSlots, r.nextSlot = n, number
			return
		}
		if r.views[i].slot.Key.Number > number {
			r.newTasks = append(r.newTasks, r.newTask(cluster.SlotKey{Number: number}, nil))
			n--
			continue
		}
		if v := &r.views[i]; v.action == drop && v.head == nil && v.slot.Key.Node == "" {
			v.action = fill
			n--
		}
	}
}

// shrink drops n slots: first the slots without a running task, then the slots on the nodes with
// most tasks of the service. Among equals it drops the highest number first.
func (r *run) shrink(n int) {
	type cost struct {
		view    *view
		running bool
		// nth numbers the service's tasks on one node, from 1. Dropping the highest nth first
		// leaves the nodes with about equal numbers of tasks.
		nth int
	}
	list := make([]cost, 0, len(r.views))
	seen := map[*cluster.Node]int{}
	for i := range r.views {
		v := &r.views[i]
		if v.action == drop {
			continue
		}
		c := cost{view: v, running: v.action == keep && v.head != nil && v.head.Running()}
		if v.head != nil && v.head.Node != nil {
			seen[v.head.Node]++
			c.nth = seen[v.head.Node]
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b cost) int {
		if a.running != b.running {
			if a.running {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(b.nth, a.nth), cmp.Compare(b.view.slot.Key.Number, a.view.slot.Key.Number))
	})
	for _, c := range list[:n] {
		c.view.action = drop
	}
}

// planJob runs a replicated job until it has total_completions completed tasks, with at most
// max_concurrent tasks at a time. Tasks of an earlier iteration are replaced.
func (r *run) planJob() {
	mode := r.service.Mode().GetReplicatedJob()
	iteration := r.service.Row.GetJobStatus().GetJobIteration()
	finishedSlots, live := 0, 0
	for i := range r.views {
		v := &r.views[i]
		old := v.slot.Newest().Row.GetJobIteration() != iteration
		switch {
		case v.action == drop:
		case old && v.head != nil && !v.head.Ended():
			v.action = replace
			live++
		case old:
			v.action = fill
		case v.action == finished:
			finishedSlots++
		case v.action != fill:
			live++
		}
	}
	room := min(int(mode.GetMaxConcurrent()), int(mode.GetTotalCompletions())-finishedSlots) - live
	for i := range r.views {
		v := &r.views[i]
		if v.action != fill {
			continue
		}
		if room--; room < 0 {
			v.action = keep
		}
	}
	if room > 0 {
		r.grow(room)
	}
}

// planGlobal gives a global service one task on every eligible node. The task of a node that is
// drained or lost, or that no longer matches, stops, and no other node takes it over. The node gets
// a new task when it is eligible again.
func (r *run) planGlobal() {
	iteration := r.service.Row.GetJobStatus().GetJobIteration()
	for i := range r.views {
		v := &r.views[i]
		n := r.state.Node(v.slot.Key.Node)
		switch {
		case n == nil || n.Removed():
			v.action = drop
		case v.action == reschedule || v.action == replace:
			v.action = stop
		case v.action == drop:
			v.action = keep
			if r.eligible(n) {
				v.action = fill
			}
		case r.service.Job() && v.slot.Newest().Row.GetJobIteration() != iteration && v.action != stop && r.eligible(n):
			v.action = replace
			if v.head == nil || v.head.Ended() {
				v.action = fill
			}
		case (v.action == fill || v.action == finished && v.head == nil) && !r.eligible(n):
			v.action = keep // an update fills the slot when the node is eligible again
		}
	}
	for _, n := range r.state.Nodes() {
		k := cluster.SlotKey{Node: n.ID}
		if !r.service.HasSlot(k) && r.eligible(n) {
			r.newTasks = append(r.newTasks, r.newTask(k, nil))
		}
	}
}

// eligible says whether a global service should have a new task on the node. It does not look at
// resources: a task that does not fit waits for them.
func (r *run) eligible(n *cluster.Node) bool {
	return n.Availability == cluster.Available && placement.Matches(r.current, n)
}

// removeService deletes a service: first its tasks, after they have stopped, then its other rows.
func (r *run) removeService() {
	remaining := 0
	for i, s := range r.service.Slots() {
		r.out.atom = i + 1
		r.removeSlot(s)
		for _, t := range s.Tasks {
			if !r.deleted[t.ID] {
				remaining++
			}
		}
	}
	if remaining > 0 {
		return
	}
	r.out.atom++
	for _, c := range r.state.Claims(r.service.ID) {
		r.out.delete(tableClaim, c.GetKey(), c.GetMeta())
	}
	if e := r.state.Endpoint(r.service.ID); e != nil {
		r.out.delete(tableEndpoint, r.service.ID, e.GetMeta())
	}
	for _, row := range r.service.Revisions() {
		r.out.delete(tableRevision, fmt.Sprintf("%s/%010d", r.service.ID, row.GetNumber()), row.GetMeta())
	}
	if r.service.Row != nil {
		r.out.delete(tableService, r.service.ID, r.service.Row.GetMeta())
	}
}

// removeSlot asks every task of the slot to stop, and deletes each task that cannot be running any
// more. A task on a lost node counts as stopped, except as mayRun says: if the node comes back, the
// task is not among its assignments, and the worker stops it.
func (r *run) removeSlot(s *cluster.Slot) {
	for _, t := range s.Tasks {
		switch {
		case !r.mayRun(t):
			r.deleteTask(t)
		case t.Desired() != swarmv1.TaskState_REMOVE:
			r.out.edit(t).DesiredState = swarmv1.TaskState_REMOVE
			r.draft.Stop(t)
		}
	}
}
