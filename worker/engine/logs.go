package engine

import (
	"context"

	swarmv1 "swarm/proto/swarm/v1"
)

// LogStore keeps the output of containers. worker/logs implements it.
type LogStore interface {
	// Run follows the files until ctx ends.
	Run(ctx context.Context) error
	// Create makes a task's folder with StdoutFile and StderrFile, and follows them from now on. It
	// is idempotent. The revision has its templates expanded. dir is empty if the log driver keeps
	// nothing.
	Create(t *swarmv1.Task, r *swarmv1.Revision) (dir string, err error)
	// Finish copies the rest of the output after the container is gone, and ends the readers that
	// follow it. It is idempotent.
	Finish(taskID string)
	// Retire says that the node does not have the task any more. Its log may be removed by age and
	// size.
	Retire(taskID string)
	// Keep retires all tasks except these.
	Keep(taskIDs []string)
	// Sizes lists all logs, those of retired tasks first, the oldest of them first.
	Sizes() []LogSize
	// Discard removes the log of a retired task.
	Discard(taskID string)
	// Read passes the records that opts ask for to send, in order. With follow it continues until
	// the task is finished or ctx ends. ErrNotFound: the store does not know the task.
	Read(ctx context.Context, taskID string, opts *swarmv1.LogOptions, send func(*swarmv1.TaskLogsResponse) error) error
}
