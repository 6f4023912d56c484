package planner

import (
	"slices"
	"time"

	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// orphanAfter is how long a node may be down before the planner ends the node's tasks. Until then
// the node may come back and report their state. Docker waits for 24 h too.
const orphanAfter = 24 * time.Hour

// reap is the sixth pass. It releases the claims of ended tasks, sets the tasks of nodes that have
// been down for too long to ORPHANED, and deletes the tasks that are not kept as history.
func (r *run) reap() {
	for i := range r.slotPlans {
		sp := &r.slotPlans[i]
		if sp.action == drop || len(sp.slot.Tasks) == 1 && !sp.slot.Tasks[0].Ended() {
			continue
		}
		r.out.atom = sp.atom
		r.reapSlot(sp)
	}
}

// reapSlot does the work of reap for one slot. The newest task keeps its row, because the next id
// depends on it. The order of the cases matters: the first one that holds decides.
func (r *run) reapSlot(sp *slotPlan) {
	newest := sp.slot.Newest()
	old := 0
	for _, t := range slices.Backward(sp.slot.Tasks) {
		if t.Ended() {
			r.releaseClaims(t)
		}
		if t.Wanted() || r.deleted[t.ID] {
			continue
		}
		switch {
		case r.mayRun(t):
			continue
		case neverReportsEnd(t) && t != newest:
			r.deleteTask(t)
			continue
		case t.Node != nil && t.Node.Down() && !t.Ended():
			r.orphan(t)
			continue
		case t.Desired() == swarmv1.TaskState_REMOVE && t != newest:
			r.deleteTask(t)
			continue
		}
		old++
		if old > r.state.HistoryLimit && t != newest {
			r.deleteTask(t)
		}
	}
}

// orphan sets a task of a node that is down to ORPHANED once orphanAfter has passed.
func (r *run) orphan(t *cluster.Task) {
	at := r.state.ClampTime(t.Node.DownSince(), t.Node.State.GetMeta()).Add(orphanAfter)
	if at.After(r.now) {
		r.wakeAt(at)
		return
	}
	if t.Status == nil {
		return
	}
	st := r.out.editStatus(t)
	st.State, st.Timestamp, st.Ready, st.Message = swarmv1.TaskState_ORPHANED, r.nowpb, false, "node has been down for too long"
}

// releaseClaims deletes the claims of an ended task.
func (r *run) releaseClaims(t *cluster.Task) {
	for _, c := range r.state.Claims(t.ID) {
		if !r.deleted[c.GetKey()] {
			r.markDeleted(c.GetKey())
			r.out.deleteIfUnchanged(table.Claim, c.GetKey(), c.GetMeta())
		}
	}
}

// deleteTask deletes the task's row, status and claims.
func (r *run) deleteTask(t *cluster.Task) {
	if r.deleted[t.ID] {
		return
	}
	r.markDeleted(t.ID)
	r.out.deleteTask(t)
	r.releaseClaims(t)
}

// markDeleted records that this plan deletes the row with the given key.
func (r *run) markDeleted(key string) {
	if r.deleted == nil {
		r.deleted = map[string]bool{}
	}
	r.deleted[key] = true
}
