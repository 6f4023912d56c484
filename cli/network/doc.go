// Package network holds the verbs of `swarm network`: create, inspect, ls, prune and rm.
//
// Callers: cli. Goroutines: while a network is removed, command.Deps.ExplainDelay runs one, which
// ends with the removal.
package network
