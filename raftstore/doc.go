// Package raftstore owns the replicated state of a cluster: the Raft log and its snapshots, the tables that the log
// adds up to, and the order in which everybody hears of changes. Managers read an immutable View, compute changes from
// it, and Commit them with the versions that they read; Apply judges each group alone. DESIGN.md says why.
//
// It refuses to know what the rows mean: it checks versions, absence, unique names and the order of reports, and
// decides nothing else. It is the one door to hashicorp/raft and its stores. Only managers use it: control, planner,
// dispatch and ca through Store; cmd wires it.
//
// Goroutines: Open starts those of Raft itself, which Close ends. Run has a few proposers, one watcher of leadership,
// one announcer for each other member, and the log's janitor; it waits for all of them. A Watcher has none.
package raftstore
