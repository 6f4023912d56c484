// Package raftstore replicates the tables of a cluster with Raft. A manager reads an immutable
// table.View, computes changes from it, and calls Commit with the row versions that it read. Each
// group of changes is accepted or refused independently, and the result is the same on every
// member. DESIGN.md gives the reasons.
//
// Below it: package table has the tables and the rules of Apply, watch publishes views and changes,
// logstore keeps the log on disk, and transport carries Raft's messages. No other packages import
// hashicorp/raft. Only managers use this package: control, planner, dispatch and ca call a Store,
// and cmd constructs it.
//
// Goroutines: Open starts the goroutines of Raft and of the transport, and Close ends them. Run
// starts the proposers, the leadership watcher, one announcer for each other member, and the log
// compactor, and waits for all of them.
package raftstore
