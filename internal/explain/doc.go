// Package explain makes the sentences that tell a user why a task does not run: why no node takes
// it, why it failed, and what the user can do about either.
//
// Managers and the command line share it, so that `service ps`, the progress of an update and its
// verdict say the same in the same words. It decides nothing, holds no state, does no I/O and runs
// no goroutine. Every sentence is one line.
package explain
