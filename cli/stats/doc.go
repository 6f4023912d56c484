// Package stats holds the verbs `swarm stats` and `swarm top`, and computes rates from the counters
// that managers send.
//
// Callers: cli. It starts no goroutines.
package stats
