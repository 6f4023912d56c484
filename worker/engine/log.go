package engine

import (
	"context"

	swarmv1 "swarm/proto/swarm/v1"
)

// LogStore keeps what containers write; worker/logs implements it.
type LogStore interface {
	// Run follows the files until ctx ends.
	Run(ctx context.Context) error
	// Create makes a task's folder with StdoutFile and StderrFile, and follows them from now on. Idempotent. The revision
	// has its templates expanded. dir is empty when the log driver keeps nothing.
	Create(t *swarmv1.Task, r *swarmv1.Revision) (dir string, err error)
	// Finish reads what is left after the container is gone, and ends its followers. Idempotent.
	Finish(taskID string)
	// Retire says that the task is history: its log may go when there are many of those.
	Retire(taskID string)
	// Keep retires all tasks but these.
	Keep(taskIDs []string)
	// Sizes lists all logs.
	Sizes() []LogSize
	// Discard removes the log of a task that is history.
	Discard(taskID string)
	// Read gives the records that opts ask for, in order, to send; with follow until the task is finished or ctx ends.
	// ErrNotFound: nothing is known of the task.
	Read(ctx context.Context, taskID string, opts *swarmv1.LogOptions, send func(*swarmv1.TaskLogsResponse) error) error
}
