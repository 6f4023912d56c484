// Package planner decides what the cluster should do next: which tasks should exist, on which node each runs, and which
// must stop. It is pure: it has no clock, no randomness, no goroutine, no store and no socket; time is an argument and
// ids are derived. The same rows and the same time give the same bytes.
//
// It owns every write to the tables of tasks (and of their statuses until a worker takes over), the claims of host ports
// and of tasks' and nodes' addresses, and a service's update status and roll back. It refuses to know how rows are stored, sent or watched. The leader's loop
// in package manager is its one caller, with one goroutine:
//
//	pic := planner.New(view)
//	for {
//		pic.Apply(batch.Changes)          // all that the store has committed, in order
//		res := pic.Plan(pic.Due(now), now)
//		commit(res.Groups)                // a rejected group: pic.Retry(group.Service)
//		wait(next batch, res.Next)        // the batches of one's own commits included
//	}
//
// A Picture is the cluster as planning sees it, kept up to date from the store's changes so that one changed task costs
// one service's planning and no scan of the cluster. Plan reads it and leaves it as it was: what is planned counts once
// the store has said so. So the loop must have applied its own commits before it plans again.
package planner
