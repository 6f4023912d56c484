// Package service holds the verbs of `swarm service`: create, ls, ps, inspect, update, scale, logs,
// rm, rollback and history.
//
// It owns what the flags of create and update mean for the specification of a service, and the
// judgement whether a service has converged. Whether the cluster can run the service is the
// managers' decision. Callers: cli. Goroutines: waiting for a service watches it in one, and a slow
// creation starts the one of command.Deps.SaySlow; each ends with its verb.
package service
