// Package raftstore replicates the tables of a cluster with Raft. A manager reads an immutable
// table.View, computes changes from it, and calls Commit with the row versions that it read. Each
// group of changes is accepted or refused independently, and the result is the same on every
// member. DESIGN.md gives the reasons.
//
// Below it: package table has the tables and the rules of Apply, watch publishes views and changes,
// logstore keeps the log on disk, and transport carries Raft's messages. No other packages import
// hashicorp/raft.
//
// Only managers use this package. Packages adapter/member and cmd/swarm open a Store. Package
// manager and the packages below it call the Store, except the planner and its packages, which read
// table.Views and return changes. adapter/monitor reads the status.
//
// Goroutines: Open starts the goroutines of Raft and of the transport, and Close ends them. Run
// starts all others and waits for them, for example the proposers, the watcher of the leadership,
// and the compactor of the log.
package raftstore
