// Package node serves the RPCs of nodes: list, inspect, promote, demote, drain, rename,
// accept and remove.
// Promotion and demotion only change a node's role: the leader then changes the voters of Raft.
//
// The package returns an error for a demotion after which the managers would have no majority, and
// for the removal of a manager. Package control is its only caller. It starts no goroutine.
package node
