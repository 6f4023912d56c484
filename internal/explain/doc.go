// Package explain makes the sentences that tell a user why a task does not run: why no node is
// suitable for the task, why the task failed, and what the user can do.
//
// Managers and the command line share it, so `service ps`, the progress of an update and the result
// of an update explain a problem in the same words. The package decides nothing, holds no state,
// does no I/O and runs no goroutine. Every sentence is one line.
package explain
