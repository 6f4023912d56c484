// Package network holds the verbs of `swarm network`: create, inspect, ls, prune and rm.
//
// Callers: cli. Goroutines: only that of command.Deps.SaySlow while a network is removed, which
// ends with the removal.
package network
