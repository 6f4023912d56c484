// Package state is the memory of a worker across restarts: the file state.db (bbolt) in the node's
// state directory.
//
// The file has the assigned objects, the last status of each task and whether a manager has it, the
// network attachments of the tasks, and when images were last in use. Secrets, encryption keys and
// registry credentials must not be given to it: managers send them again with the first message of
// a session.
//
// Writes gather in memory, so that no task waits for a disk. Run is the only goroutine that commits
// them. It commits all gathered writes in one transaction with one fsync. A crash loses only the
// last writes, and nothing depends on those. Managers send assignments again. The worker computes
// unacknowledged statuses again from the containers. If the file does not know a container, the
// worker adopts it when a task with its id is assigned, and else removes it.
//
// Package worker opens the file. The packages session, tasks and storage write to it.
package state
