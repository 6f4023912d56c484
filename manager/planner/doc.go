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
// How rows are stored, sent or watched is not its concern. Its only caller is the leader's loop in
// package manager, in one goroutine:
//
//	state := planner.New(view)
//	for {
//		res := state.Plan(state.Due(now), now)
//		commit(res.Groups)                // if the store rejects a group: state.Retry(group.Service)
//		wait(next batch, res.Next)        // returns when the store has changed, or at res.Next
//		state.Apply(batch.Changes)        // everything that was committed, in order
//	}
//
// A State is the planner's copy of the cluster. Changes of the store keep it up to date, so that
// one changed task costs the planning of one service and not a pass over all rows. Plan does not
// change what later plans see: a proposed change counts only after the store has committed it and
// Apply has received it. The loop must therefore apply its own commits before it plans again.
package planner
