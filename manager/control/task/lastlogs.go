package task

import (
	"context"
	"time"

	"google.golang.org/grpc"

	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// lastLines is how many lines of its log explain why a task failed.
	lastLines = 10
	// lastLinesWait is how long the node of the task may take to send them.
	lastLinesWait = 2 * time.Second
)

// LastLogs returns the last ten lines of a task's log, or those of them that its node sends within
// two seconds. It returns no error, because the lines only add to a failure that the caller knows.
func (s *Server) LastLogs(ctx context.Context, taskID string) []*swarmv1.LogRecord {
	ctx, cancel := context.WithTimeout(ctx, lastLinesWait)
	defer cancel()
	c := &collector{ctx: ctx}
	l := s.newLogs(scope{task: taskID}, &swarmv1.LogOptions{Tail: lastLines}, c)
	if err := l.past(ctx, s.store.View()); err != nil {
		s.log.Debug("log of a failed task is missing", "task", taskID, "err", err)
	}
	return c.records
}

// collector receives the records that Logs would send.
type collector struct {
	grpc.ServerStream
	ctx     context.Context
	records []*swarmv1.LogRecord
}

func (c *collector) Context() context.Context { return c.ctx }

func (c *collector) Send(r *swarmv1.TaskLogsResponse) error {
	c.records = append(c.records, r.GetRecords()...)
	return nil
}
