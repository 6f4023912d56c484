// Package planner decides what the cluster does next: which tasks exist, on which node each task
// runs, and which tasks must stop. It is pure: it has no clock, randomness, goroutine, store or
// socket. Time is an argument, and task ids are computed. The same rows and the same time give the
// same bytes.
//
// The planner proposes all writes of these rows:
//
//   - tasks, and their statuses until a worker takes over at ASSIGNED
//   - claims of host ports, of the addresses of tasks and of the ingress addresses of nodes
//   - a service's update status, and the rollback of a service
//   - the rows of a service that the user has removed
//
// How rows are stored, sent or watched is not its concern. Package cluster folds the rows into a
// State; package placement chooses nodes. The only caller is the leader's loop in package manager,
// in one goroutine:
//
//	state := cluster.New(view)
//	p := planner.New(state)
//	for {
//		res := p.Plan(state.Due(now), now)
//		commit(res.Groups)                // if the store rejects a group: state.Retry(group.Service)
//		wait(next batch, res.Next)        // returns when the store has changed, or at res.Next
//		state.Apply(batch.Changes)        // everything that was committed, in order
//	}
//
// Changes of the store keep the State up to date, so that one changed task costs the planning of
// one service and not a pass over all rows. Plan does not change what later plans see: a proposed
// change counts only after the store has committed it and Apply has received it. The loop must
// therefore apply its own commits before it plans again.
//
// Plan runs these passes for each service. The first four decide: they set the action of every slot
// in a list of slotPlans. The last three carry the decisions out and write changes. applyLimits
// also reserves resources in the draft of the plan (cluster.Draft):
//
//	judge         the tasks of a slot -> the slot's action: keep, restart, replace, drop, ...
//	reconcile     the actions, and the mode of the service -> other actions, slots to add
//	applyLimits   the slots that are kept -> slots whose task moves to other limits
//	updatePass    all slots, and the update status -> slots to update, the new update status
//	applyActions  what was decided -> changes of tasks, and new tasks
//	reap          old tasks -> deletions of tasks and claims
//	placeTasks    tasks without a node, and new tasks -> nodes, addresses, ports, rows
package planner
