// Package raftstore owns the replicated state of a cluster: the Raft log, its snapshots, the tables
// that result from applying the log, and the stream of changes that watchers read. A manager reads
// an immutable View, computes changes from it, and calls Commit with the row versions that it read.
// Apply accepts or refuses each group of changes independently. DESIGN.md gives the reasons.
//
// The package does not interpret rows. It checks only versions, absence, unique names and the order
// of reports. No other package imports hashicorp/raft or its log stores. Only managers use this
// package: control, planner, dispatch and ca call a Store, and cmd constructs it.
//
// Goroutines: Open starts the goroutines of Raft, and Close ends them. Run starts the proposers,
// the leadership watcher, one announcer for each other member, and the log compactor, and waits for
// all of them. A Watcher has no goroutine.
package raftstore
