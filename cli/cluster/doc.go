// Package cluster holds the verbs that make, join, leave and change a cluster: init, join, leave,
// join-token and update.
//
// It owns the checks of addresses and join tokens, and it starts the daemon of this host if the
// host is to become a member and no daemon runs. Callers: cli. Goroutines: only that of
// command.Deps.SaySlow while a node leaves, which ends with the verb.
package cluster
