// Package service serves the RPCs of services: create, update, roll back, remove, list, inspect,
// the list of revisions, and WaitService, which streams the progress of a change. From a spec it
// makes a complete desired state: it pins the image to a digest, replaces names by ids, and claims
// the published ports and virtual IPs. AlignEndpoints, a duty of the leader, claims the ports and
// addresses of a service that the planner has rolled back.
//
// The planner decides how many tasks there are, and where. Package control is the only caller, and
// the manager runs AlignEndpoints. The package starts no goroutine.
package service
