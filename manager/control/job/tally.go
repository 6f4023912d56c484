package job

import (
	"strconv"

	"swarm/internal/rollout"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// tally counts the tasks of one run.
type tally struct {
	completed, failed uint64
	// complete is set if the run has done what the job asks for.
	complete bool
	// stuck is set if the run cannot complete: its tasks have ended, and no other will follow.
	stuck bool
}

// tallyOf counts the tasks of one iteration. current says that the iteration is the current one, so
// that tasks may still be added.
func tallyOf(v *table.View, svc *swarmv1.Service, sp *swarmv1.ServiceSpec, iteration uint64, current bool) tally {
	newest := map[string]*swarmv1.Task{} // by slot
	for t := range v.TasksOfService(svc.GetId()) {
		if t.GetJobIteration() != iteration {
			continue
		}
		key := slotKey(t)
		if had := newest[key]; had == nil || t.GetOrdinal() > had.GetOrdinal() {
			newest[key] = t
		}
	}
	var out tally
	live := 0
	for _, t := range newest {
		rev, _ := v.Revision(svc.GetId(), t.GetRevision())
		rows := rollout.Task{Row: t, Status: v.Status(t.GetId()), Revision: rev}
		out.failed += t.GetRestarts().GetAttempts()
		if rows.Failure() && !rows.LacksImage() {
			out.failed++
		}
		switch state := rows.Status.GetState(); {
		case state == swarmv1.TaskState_COMPLETE:
			out.completed++
		case state < swarmv1.TaskState_COMPLETE:
			live++
		case current && rollout.RestartPolicyOf(rev.GetSpec().GetTaskTemplate().GetRestartPolicy()).Allows(rows, rows.Status.GetTimestamp().AsTime()):
			live++ // Another task follows.
		}
	}
	if job := sp.GetMode().GetReplicatedJob(); job != nil {
		out.complete = out.completed >= job.GetTotalCompletions()
	} else {
		out.complete = len(newest) > 0 && out.completed == uint64(len(newest))
	}
	out.stuck = !out.complete && live == 0 && (len(newest) > 0 && out.failed > 0 || !current)
	return out
}

// slotKey names the slot of a task: its number, or the node of a task of a global job.
func slotKey(t *swarmv1.Task) string {
	if t.GetSlot() == 0 {
		return t.GetNodeId()
	}
	return strconv.FormatUint(t.GetSlot(), 10)
}
