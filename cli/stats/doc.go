// Package stats holds the verb `swarm stats`, prints the processes of a task, and computes rates
// from the counters that managers send, for `swarm top` too.
//
// Callers: cli, and cli/top. It starts no goroutines.
package stats
