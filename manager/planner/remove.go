package planner

import (
	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// removeService deletes a service: first its tasks, after they have stopped, then its other rows.
func (r *run) removeService() {
	remaining := 0
	for _, s := range r.service.Slots() {
		r.out.newAtom()
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
	r.out.newAtom()
	for _, c := range r.state.Claims(r.service.ID) {
		r.out.deleteIfUnchanged(table.Claim, c.GetKey(), c.GetMeta())
	}
	if e := r.state.Endpoint(r.service.ID); e != nil {
		r.out.deleteIfUnchanged(table.Endpoint, r.service.ID, e.GetMeta())
	}
	for _, row := range r.service.Revisions() {
		r.out.deleteIfUnchanged(table.Revision, table.RevisionKey(r.service.ID, row.GetNumber()), row.GetMeta())
	}
	if r.service.Row != nil {
		r.out.deleteIfUnchanged(table.Service, r.service.ID, r.service.Row.GetMeta())
	}
}

// removeSlot asks the tasks of the slot for which mayRun returns true to stop, and deletes the
// other tasks. The task of a lost node may be deleted while its container still runs: if
// the node comes back, the task is not among its assignments, and the worker stops it.
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
