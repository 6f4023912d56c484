// Package stale defines the gRPC metadata with which clients accept, and managers mark, answers
// that may be old.
package stale

const (
	// Accept is the metadata key of a request that asks for the state of the manager itself. The
	// manager then does not ask the leader.
	Accept = "swarm-stale-accept"
	// Notice is the metadata key of an answer that may be old. Its value says why, in one line.
	Notice = "swarm-stale-notice"
)
