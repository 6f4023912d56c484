package planner

import (
	"cmp"
	"slices"

	"swarm/internal/spec"
	"swarm/manager/planner/cluster"
	"swarm/manager/planner/placement"
	swarmv1 "swarm/proto/swarm/v1"
)

// additions are the slots that a plan adds to a service.
type additions struct {
	keys []cluster.SlotKey // of the first slots that are added
	// more is how many slots are added after those, with the numbers from next on. They are only
	// counted, because a service may lack millions of slots, and createMissing creates no more
	// tasks when maxWaiting tasks wait.
	more int
	next uint64
}

// reconcile is the second pass. It makes the number of slots what the mode of the service asks for:
// it changes the actions in slotPlans, mostly to drop, and returns the slots to add. The slots that
// judge wants to drop count as dropped. It writes nothing.
func (p subject) reconcile(slotPlans []slotPlan) additions {
	switch {
	case p.service.Global():
		return p.planGlobal(slotPlans)
	case p.service.Job():
		dropGlobalSlots(slotPlans)
		return p.planJob(slotPlans)
	}
	return p.planReplicated(slotPlans)
}

// dropGlobalSlots drops the slots that remain from a time when the service was global.
func dropGlobalSlots(slotPlans []slotPlan) {
	for i := range slotPlans {
		if slotPlans[i].slot.Key.Node != "" {
			slotPlans[i].action = drop
		}
	}
}

// planReplicated adjusts the number of slots of a replicated service to its number of replicas.
func (p subject) planReplicated(slotPlans []slotPlan) additions {
	dropGlobalSlots(slotPlans)
	used := 0
	for i := range slotPlans {
		if slotPlans[i].action != drop {
			used++
		}
	}
	// The number of replicas fits an int because spec limits it.
	switch target := int(min(p.service.Mode().GetReplicated().GetReplicas(), spec.MaxReplicas)); {
	case used > target:
		shrink(slotPlans, used-target)
	case used < target:
		return grow(slotPlans, target-used)
	}
	return additions{}
}

// grow adds n slots with the lowest numbers that no slot in use has. The number of a slot whose
// tasks are being removed counts as free: grow fills that slot, and its new task waits until the
// old one has stopped. Slots with numbers above all in slotPlans are counted in more.
func grow(slotPlans []slotPlan, n int) (added additions) {
	i := 0 // the first slot with this number or a higher one
	for number := uint64(1); n > 0; number++ {
		for i < len(slotPlans) && slotPlans[i].slot.Key.Number < number {
			i++
		}
		switch {
		case i == len(slotPlans): // All numbers from here on are free.
			return additions{keys: added.keys, more: n, next: number}
		case slotPlans[i].slot.Key.Number > number: // The number is free.
			added.keys = append(added.keys, cluster.SlotKey{Number: number})
			n--
		case slotPlans[i].action == drop && slotPlans[i].head == nil:
			slotPlans[i].action = fill
			n--
		}
	}
	return added
}

// shrink drops n slots: first the slots without a running task, then the slots on the nodes with
// most tasks of the service. Among equals it drops the highest number first.
func shrink(slotPlans []slotPlan, n int) {
	type cost struct {
		slotPlan *slotPlan
		running  bool
		// nth numbers the service's tasks on one node, from 1. Dropping the highest nth first
		// leaves the nodes with about equal numbers of tasks.
		nth int
	}
	list := make([]cost, 0, len(slotPlans))
	seen := map[*cluster.Node]int{}
	for i := range slotPlans {
		sp := &slotPlans[i]
		if sp.action == drop {
			continue
		}
		c := cost{slotPlan: sp, running: sp.action == keep && sp.head != nil && sp.head.Running()}
		if sp.head != nil && sp.head.Node != nil {
			seen[sp.head.Node]++
			c.nth = seen[sp.head.Node]
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
		return cmp.Or(cmp.Compare(b.nth, a.nth), cmp.Compare(b.slotPlan.slot.Key.Number, a.slotPlan.slot.Key.Number))
	})
	for _, c := range list[:n] {
		c.slotPlan.action = drop
	}
}

// planJob runs a replicated job until it has total_completions completed tasks, with at most
// max_concurrent tasks at a time. Tasks of an earlier iteration are replaced.
func (p subject) planJob(slotPlans []slotPlan) additions {
	mode := p.service.Mode().GetReplicatedJob()
	iteration := p.service.Row.GetJobStatus().GetJobIteration()
	if !p.runs() {
		endRun(slotPlans)
		return additions{}
	}
	finishedSlots, live := 0, 0
	for i := range slotPlans {
		sp := &slotPlans[i]
		old := sp.slot.Newest().Row.GetJobIteration() != iteration
		switch {
		case sp.action == drop:
		case old && sp.head != nil && !sp.head.Ended() && p.runsOverlap():
			sp.action = keep
		case old && sp.head != nil && !sp.head.Ended():
			sp.action = replace
			live++
		case old:
			sp.action = fill
		case sp.action == finished:
			finishedSlots++
		case sp.action != fill:
			live++
		}
	}
	room := min(int(mode.GetMaxConcurrent()), int(mode.GetTotalCompletions())-finishedSlots) - live
	for i := range slotPlans {
		sp := &slotPlans[i]
		if sp.action != fill {
			continue
		}
		room--
		if room < 0 {
			sp.action = keep
		}
	}
	if room > 0 {
		return grow(slotPlans, room)
	}
	return additions{}
}

// runs says whether a job has a run that goes on: it has not ended, and a job with a schedule has
// begun one.
func (p subject) runs() bool {
	status := p.service.Row.GetJobStatus()
	return !status.GetEnded() && (status.GetJobIteration() > 0 || !spec.IsScheduled(p.current.Spec()))
}

// runsOverlap says whether the tasks of an earlier run go on beside those of the current one.
func (p subject) runsOverlap() bool {
	return p.current.Spec().GetJob().GetOverlap() == swarmv1.JobPolicy_ALLOW
}

// endRun stops the tasks of a job whose run has ended, and adds none.
func endRun(slotPlans []slotPlan) {
	for i := range slotPlans {
		sp := &slotPlans[i]
		switch {
		case sp.action == drop:
		case sp.head != nil && !sp.head.Ended():
			sp.action = stop
		default:
			sp.action = keep
		}
	}
}

// planGlobal gives a global service one task on every eligible node. The task of a node that is
// drained or lost, or that no longer matches, stops, and no other node takes it over. The node gets
// a new task when it is eligible again.
func (p subject) planGlobal(slotPlans []slotPlan) (added additions) {
	iteration := p.service.Row.GetJobStatus().GetJobIteration()
	if p.service.Job() && !p.runs() {
		endRun(slotPlans)
		return additions{}
	}
	for i := range slotPlans {
		sp := &slotPlans[i]
		n := p.state.Node(sp.slot.Key.Node)
		switch {
		case n == nil || n.Removed():
			sp.action = drop
		case sp.action == reschedule || sp.action == replace || sp.action == leave:
			sp.action = stop
		case sp.action == drop:
			// An earlier plan dropped the slot, because the service was not global then or the node
			// had no row. The slot is wanted again, and judge does not know that.
			sp.action = keep
			if p.eligible(n) {
				sp.action = fill
			}
		case p.service.Job() && sp.slot.Newest().Row.GetJobIteration() != iteration && sp.action != stop && p.eligible(n):
			sp.action = replace
			switch {
			case sp.head == nil || sp.head.Ended():
				sp.action = fill
			case p.runsOverlap():
				sp.action = keep // The node runs the next run's task when this one has ended.
			}
		case (sp.action == fill || sp.action == finished && sp.head == nil) && !p.eligible(n):
			// The node must get no task now, also not from updatePass, which fills finished slots.
			// judge decides again when the node has changed.
			sp.action = keep
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
