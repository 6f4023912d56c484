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
//		if len(res.Groups) > 0 {
//			commit(res.Groups)        // if the store rejects a group: state.Retry(group.Service)
//		} else {
//			wait(res.Next)            // returns when the store has changed, or at res.Next
//		}
//		state.Apply(changes)              // everything that was committed meanwhile, in order
//	}
//
// Changes of the store keep the State up to date, so that one changed task costs the planning of
// one service and not a pass over all rows. A proposed change counts only after the store has
// committed it and Apply has received it. The loop must therefore apply its own commits before it
// plans again. The only thing that Plan changes for later plans is the deadlines of the services.
//
// Plan runs these passes for each service. The first five decide what happens to every slot and
// record it in a list of slotPlans; they write no changes of rows. The last three carry the
// decisions out and write changes:
//
//	judge         the tasks of a slot -> the slot's action: keep, restart, replace, drop, ...
//	reconcile     the actions, and the mode of the service -> other actions, slots to add
//	applyLimits   the slots that are kept -> slots whose task moves to other limits, and what
//	              these tasks reserve in addition (in the cluster.Draft of the plan)
//	updatePass    all slots, and the update status -> slots to update, the new update status
//	moveDrained   the slots whose node is being drained -> slots that move now
//	applyActions  what was decided -> changes of tasks, and new tasks
//	reap          old tasks -> deletions of tasks and claims
//	placeTasks    tasks without a node, and new tasks -> nodes, addresses, ports, rows
package planner
