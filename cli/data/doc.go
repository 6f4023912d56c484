// Package data holds the verbs of `swarm secret` and `swarm config`: create, history, inspect, ls,
// rm, rollback and update. The two nouns have the same verbs; a noun value says in what they
// differ.
//
// Callers: cli. It runs no goroutine.
package data
