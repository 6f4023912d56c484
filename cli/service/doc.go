// Package service holds the verbs of `swarm service`: create, ls, ps, inspect, update, scale, logs,
// rm, rollback and history.
//
// It owns what the flags of create and update mean for the specification of a service. Whether the
// cluster can run the service, and whether it has converged, is the managers' decision. Callers:
// cli. Goroutines: a slow creation starts the one of command.Deps.SaySlow, which ends with the
// verb.
package service
