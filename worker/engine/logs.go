package engine

import (
	"context"

	swarmv1 "swarm/proto/swarm/v1"
)

// LogStore keeps the output of containers. worker/logs implements it.
type LogStore interface {
	// Run copies what containers write to their files until ctx ends.
	Run(ctx context.Context) error
	// Create makes a task's folder with StdoutFile and StderrFile, and makes Run copy what is
	// written to these files. It is idempotent. The revision has its templates expanded. dir is
	// empty if the log driver keeps nothing.
	Create(t *swarmv1.Task, r *swarmv1.Revision) (dir string, err error)
	// Finish copies the rest of the output after the container was removed. Calls of Read that
	// follow the log return after it. It is idempotent.
	Finish(taskID string)
	// Retire says that the node does not have the task any more. From then on the store may remove
	// the task's log when it is too old, or when the retired logs together are too large.
	Retire(taskID string)
	// Keep retires all tasks except those with these ids.
	Keep(taskIDs []string)
	// Sizes lists all logs. The logs of retired tasks come first, ordered by the time at which the
	// tasks were retired.
	Sizes() []LogSize
	// Discard removes the log of a retired task.
	Discard(taskID string)
	// Read passes the records that opts ask for to send, in order. With follow it continues until
	// the task is finished or ctx ends. ErrNotFound: the store does not know the task.
	Read(ctx context.Context, taskID string, opts *swarmv1.LogOptions, send func(*swarmv1.TaskLogsResponse) error) error
}
