// Package node serves the RPCs of nodes: list, inspect, promote, demote, drain, rename and remove.
// Promotion and demotion only change a node's role: the leader then changes the voters of Raft.
//
// It refuses a demotion or a removal that would leave the managers unable to decide. Package
// control is its only caller. It starts no goroutine.
package node
