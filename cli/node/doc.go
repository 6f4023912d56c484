// Package node holds the verbs of `swarm node`: ls, ps, inspect, update, promote, demote and rm.
//
// It edits the specification of nodes and leaves to managers what follows from it. Callers: cli. It
// starts no goroutines.
package node
