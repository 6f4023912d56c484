package planner

import (
	"cmp"
	"fmt"
	"slices"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// replicated gives a replicated service as many slots as it asks for.
func (r *run) replicated() {
	used := 0
	for i := range r.views {
		v := &r.views[i]
		if v.slot.key.node != "" {
			v.act = drop // of the time when the service was global
		}
		if v.act != drop {
			used++
		}
	}
	if r.svc.job() {
		r.job()
		return
	}
	// Replicas fit an int: spec bounds them.
	switch target := int(min(r.svc.mode().GetReplicated().GetReplicas(), spec.MaxReplicas)); {
	case used > target:
		r.shrink(used - target)
	case used < target:
		r.grow(target - used)
	}
}

// grow takes the lowest free numbers for n more slots. A slot that is being dropped is taken up again; its new task
// waits for the old one to stop. Numbers above all known ones are left to extend.
func (r *run) grow(n int) {
	number := uint64(1)
	known := len(r.views)
	for i := 0; n > 0; number++ {
		for i < known && r.views[i].slot.key.number < number {
			i++
		}
		if i == known {
			r.more, r.number = n, number
			return
		}
		if r.views[i].slot.key.number > number {
			r.wants = append(r.wants, r.want(slotKey{number: number}, nil))
			n--
			continue
		}
		if v := &r.views[i]; v.act == drop && v.head == nil && v.slot.key.node == "" {
			v.act = fill
			n--
		}
	}
}

// shrink drops n slots: first those without a task that runs, then from the nodes that have most tasks of the service;
// the highest number first.
func (r *run) shrink(n int) {
	type cost struct {
		view *view
		// running, and the how-many-th of its node: dropping the highest first levels the nodes.
		running bool
		nth     int
	}
	list := make([]cost, 0, len(r.views))
	seen := map[*node]int{}
	for i := range r.views {
		v := &r.views[i]
		if v.act == drop {
			continue
		}
		c := cost{view: v, running: v.act == keep && v.head != nil && v.head.running()}
		if v.head != nil && v.head.node != nil {
			seen[v.head.node]++
			c.nth = seen[v.head.node]
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
		return cmp.Or(cmp.Compare(b.nth, a.nth), cmp.Compare(b.view.slot.key.number, a.view.slot.key.number))
	})
	for _, c := range list[:n] {
		c.view.act = drop
	}
}

// job runs a replicated job: so many completions, at most so many tasks at a time. The tasks of an earlier iteration
// make way.
func (r *run) job() {
	mode := r.svc.mode().GetReplicatedJob()
	iteration := r.svc.row.GetJobStatus().GetJobIteration()
	finishedSlots, live := 0, 0
	for i := range r.views {
		v := &r.views[i]
		old := v.slot.newest().row.GetJobIteration() != iteration
		switch {
		case v.act == drop:
		case old && v.head != nil && !v.head.ended():
			v.act = replace
			live++
		case old:
			v.act = fill
		case v.act == finished:
			finishedSlots++
		case v.act != fill:
			live++
		}
	}
	room := min(int(mode.GetMaxConcurrent()), int(mode.GetTotalCompletions())-finishedSlots) - live
	for i := range r.views {
		v := &r.views[i]
		if v.act != fill {
			continue
		}
		if room--; room < 0 {
			v.act = keep
		}
	}
	if room > 0 {
		r.grow(room)
	}
}

// global gives a global service a task on every node that suits it. A node out of reach or drained loses its task, and
// gets another when it is back; nobody else takes it over.
func (r *run) global() {
	iteration := r.svc.row.GetJobStatus().GetJobIteration()
	for i := range r.views {
		v := &r.views[i]
		n := r.p.nodes[v.slot.key.node]
		switch {
		case n == nil || n.gone():
			v.act = drop
		case v.act == rescue || v.act == replace:
			v.act = stop
		case v.act == drop:
			v.act = keep
			if r.takes(n) {
				v.act = fill
			}
		case r.svc.job() && v.slot.newest().row.GetJobIteration() != iteration && v.act != stop && r.takes(n):
			v.act = replace
			if v.head == nil || v.head.ended() {
				v.act = fill
			}
		case (v.act == fill || v.act == finished && v.head == nil) && !r.takes(n):
			v.act = keep // an update renews it when the node takes tasks again
		}
	}
	for _, n := range r.p.order {
		k := slotKey{node: n.id}
		if r.svc.slots[k] == nil && r.takes(n) {
			r.wants = append(r.wants, r.want(k, nil))
		}
	}
}

// takes says whether a global service should have a new task on the node. Room there is another question: a task for
// which there is none waits.
func (r *run) takes(n *node) bool {
	return n.open == fits && r.cur.suits(n)
}

// remove ends a service: its tasks stop and go, then all its rows.
func (r *run) remove() {
	left := 0
	for i, s := range r.svc.ordered() {
		r.out.atom = i + 1
		r.removeSlot(s)
		for _, t := range s.tasks {
			if !r.freed[t.id] {
				left++
			}
		}
	}
	if left > 0 {
		return
	}
	r.out.atom++
	for _, c := range r.p.claims[r.svc.id] {
		r.out.delete(tableClaim, c.GetKey(), c.GetMeta())
	}
	if e := r.p.endpoints[r.svc.id]; e != nil {
		r.out.delete(tableEndpoint, r.svc.id, e.GetMeta())
	}
	for _, number := range sortedKeys(r.svc.revs) {
		if row := r.svc.revs[number].row; row != nil {
			r.out.delete(tableRevision, fmt.Sprintf("%s/%010d", r.svc.id, number), row.GetMeta())
		}
	}
	if r.svc.row != nil {
		r.out.delete(tableService, r.svc.id, r.svc.row.GetMeta())
	}
}

// removeSlot has every task of the slot stopped and its rows deleted as soon as it cannot run any more. On a node that is
// lost it counts as stopped: should the node come back, it finds that the task is not its own.
func (r *run) removeSlot(s *slot) {
	for _, t := range s.tasks {
		switch {
		case !r.mayRun(t):
			r.erase(t)
		case t.desired() != swarmv1.TaskState_REMOVE:
			r.out.edit(t).DesiredState = swarmv1.TaskState_REMOVE
			r.leave(t)
		}
	}
}
