// Package task serves the RPCs of tasks: list, inspect, logs and exec. The nodes have the logs and
// run the commands; this package finds the nodes, merges what they send, and continues when one of
// them restarts.
//
// Only the planner creates and changes tasks. Package control is the only caller of this package.
// Goroutines: those of Logs and Exec, which end with the call.
package task
