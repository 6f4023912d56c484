// Package service serves the RPCs of services: create, update, roll back, remove, list, inspect,
// and the list of revisions. It makes a complete desired state out of a spec: the image pinned to a
// digest, names turned into ids, the published ports and virtual IPs claimed. AlignEndpoints, a
// duty of the leader, does the same for a service that the planner has rolled back.
//
// It refuses to decide about tasks: how many there are, and where, is the planner's. Package
// control is its only caller, and the manager runs AlignEndpoints. It starts no goroutine.
package service
