// Package dev holds the verbs of `swarm dev`, which make a cluster of several hosts on one machine.
//
// It owns the flags and the list of hosts; Maker, which cmd/swarm implements by package swarm/dev,
// does the work. Callers: cli; cmd/swarm for the types. It starts no goroutines.
package dev
