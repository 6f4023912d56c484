// Package table owns the tables of a cluster: their schema, the rules by which a log entry changes
// them (State.Apply), the immutable View that readers get, and the format of snapshots. It knows
// neither Raft nor the disk, and it has no goroutine, clock or randomness, so a planner or a
// simulation can use it without a store.
//
// The package does not interpret rows. Apply checks only preconditions (version, presence, absence,
// a newer report), unique names and the cluster's epoch.
//
// Package raftstore applies entries. Control, planner, dispatch and ca read Views and make changes
// with the functions of change.go, such as Create, Update and Delete.
package table
