// Package system holds the verbs about the machines of the nodes and about the cluster as a whole:
// df and prune of `swarm system`, info, version, events and doctor.
//
// Callers: cli; cmd/swarm for the types of the doctor, which examines the host there. It starts no
// goroutines.
package system
