// Package cluster holds the verbs that make, join, leave and change a cluster: init, join, leave,
// join-token and update.
//
// The package owns the checks of addresses and join tokens. Its init and join start the daemon of
// this host if no daemon runs. Callers: cli. Goroutines: while a node leaves,
// command.Deps.ExplainDelay runs one, which ends with the verb.
package cluster
