// Package stale names the metadata by which managers and their clients talk about old answers.
package stale

const (
	// Accept in a request's metadata asks for the manager's own view, without a question to the leader.
	Accept = "swarm-stale-accept"
	// Notice in an answer's header says in one line that the answer may be old, and why.
	Notice = "swarm-stale-notice"
)
