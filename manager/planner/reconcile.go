package planner

import (
	"cmp"
	"slices"

	"swarm/internal/spec"
	"swarm/manager/planner/cluster"
	"swarm/manager/planner/placement"
)

// additions are the slots that a plan adds to a service: those with the given keys, and then as
// many as more says, numbered from next. The second kind is separate because a service may miss
// millions of slots; placement creates no more of them when too many tasks wait (maxWaiting).
type additions struct {
	keys []cluster.SlotKey
	more int
	next uint64
}

// reconcile is the second pass. It makes the number of slots what the mode of the service asks for:
// it changes actions of views, as a rule to drop, and returns the slots to add. The slots that
// judge wants to drop count as dropped. It writes nothing.
func (p subject) reconcile(views []view) additions {
	switch {
	case p.service.Global():
		return p.planGlobal(views)
	case p.service.Job():
		dropGlobalSlots(views)
		return p.planJob(views)
	}
	return p.planReplicated(views)
}

// dropGlobalSlots drops the slots of the time when the service was global, and counts the slots
// that are left.
func dropGlobalSlots(views []view) int {
	used := 0
	for i := range views {
		v := &views[i]
		if v.slot.Key.Node != "" {
			v.action = drop
		}
		if v.action != drop {
			used++
		}
	}
	return used
}

// planReplicated adjusts the number of slots of a replicated service to its number of replicas.
func (p subject) planReplicated(views []view) additions {
	used := dropGlobalSlots(views)
	// The number of replicas fits an int because spec limits it.
	switch target := int(min(p.service.Mode().GetReplicated().GetReplicas(), spec.MaxReplicas)); {
	case used > target:
		shrink(views, used-target)
	case used < target:
		return grow(views, target-used)
	}
	return additions{}
}

// grow adds n slots with the lowest free numbers. It first reuses a slot that is being dropped, if
// its number is low enough; the new task of that slot waits until the old one has stopped. Slots
// with numbers above all known ones are counted in more.
func grow(views []view, n int) (added additions) {
	number := uint64(1)
	known := len(views)
	for i := 0; n > 0; number++ {
		for i < known && views[i].slot.Key.Number < number {
			i++
		}
		if i == known {
			added.more, added.next = n, number
			return added
		}
		if views[i].slot.Key.Number > number {
			added.keys = append(added.keys, cluster.SlotKey{Number: number})
			n--
			continue
		}
		if v := &views[i]; v.action == drop && v.head == nil && v.slot.Key.Node == "" {
			v.action = fill
			n--
		}
	}
	return added
}

// shrink drops n slots: first the slots without a running task, then the slots on the nodes with
// most tasks of the service. Among equals it drops the highest number first.
func shrink(views []view, n int) {
	type cost struct {
		view    *view
		running bool
		// nth numbers the service's tasks on one node, from 1. Dropping the highest nth first
		// leaves the nodes with about equal numbers of tasks.
		nth int
	}
	list := make([]cost, 0, len(views))
	seen := map[*cluster.Node]int{}
	for i := range views {
		v := &views[i]
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
func (p subject) planJob(views []view) additions {
	mode := p.service.Mode().GetReplicatedJob()
	iteration := p.service.Row.GetJobStatus().GetJobIteration()
	finishedSlots, live := 0, 0
	for i := range views {
		v := &views[i]
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
	for i := range views {
		v := &views[i]
		if v.action != fill {
			continue
		}
		if room--; room < 0 {
			v.action = keep
		}
	}
	if room > 0 {
		return grow(views, room)
	}
	return additions{}
}

// planGlobal gives a global service one task on every eligible node. The task of a node that is
// drained or lost, or that no longer matches, stops, and no other node takes it over. The node gets
// a new task when it is eligible again.
func (p subject) planGlobal(views []view) (added additions) {
	iteration := p.service.Row.GetJobStatus().GetJobIteration()
	for i := range views {
		v := &views[i]
		n := p.state.Node(v.slot.Key.Node)
		switch {
		case n == nil || n.Removed():
			v.action = drop
		case v.action == reschedule || v.action == replace:
			v.action = stop
		case v.action == drop:
			v.action = keep
			if p.eligible(n) {
				v.action = fill
			}
		case p.service.Job() && v.slot.Newest().Row.GetJobIteration() != iteration && v.action != stop && p.eligible(n):
			v.action = replace
			if v.head == nil || v.head.Ended() {
				v.action = fill
			}
		case (v.action == fill || v.action == finished && v.head == nil) && !p.eligible(n):
			v.action = keep // an update fills the slot when the node is eligible again
		}
	}
	for _, n := range p.state.Nodes() {
		k := cluster.SlotKey{Node: n.ID}
		if !p.service.HasSlot(k) && p.eligible(n) {
			added.keys = append(added.keys, k)
		}
	}
	return added
}

// eligible says whether a global service should have a new task on the node. It does not look at
// resources: a task that does not fit waits for them.
func (p subject) eligible(n *cluster.Node) bool {
	return n.Availability == cluster.Available && placement.Matches(p.current, n)
}
