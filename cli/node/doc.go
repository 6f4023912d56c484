// Package node holds the verbs of `swarm node`: ls, ps, inspect, update, drain, promote, demote and
// rm.
//
// It edits the specification of nodes. Managers act on the edit; promote and drain wait until they
// have. Callers: cli. It starts no goroutines.
package node
