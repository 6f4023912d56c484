// Package volume holds the verbs of `swarm volume`: backup, clone, create, inspect, ls, prune,
// restore and rm.
//
// Callers: cli. It starts no goroutine.
package volume
