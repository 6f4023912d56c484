// Package volume holds the verbs of `swarm volume`: create, inspect, ls, prune and rm.
//
// Callers: cli. It starts no goroutine.
package volume
