// Package service holds the verbs of `swarm service`: create, ls, ps, inspect, update, scale, logs,
// rm, rollback and history.
//
// The package owns the meaning of the flags of create and update for the specification of a
// service. The managers decide whether the cluster can run the service and whether it has
// converged. Callers: cli. Goroutines: during create, command.Deps.ExplainDelay runs one, which
// ends with the verb.
package service
