package tasks

import (
	"context"
	"fmt"
)

// StopAll stops every task with its signal and its grace period, because the host goes down. It
// ignores the tasks' desired states. It returns nil when all tasks have ended. If ctx ends first,
// it returns an error that wraps the error of ctx. Tasks that managers assign after
// session.Client.AnnounceDeparture do not start.
func (r *Runner) StopAll(ctx context.Context) error {
	r.mu.Lock()
	loops := make([]*taskLoop, 0, len(r.tasks))
	for _, t := range r.tasks {
		loops = append(loops, t)
	}
	r.mu.Unlock()
	ends := make([]<-chan struct{}, 0, len(loops))
	for _, t := range loops {
		ends = append(ends, t.depart())
	}
	for i, end := range ends {
		select {
		case <-end:
		case <-ctx.Done():
			return fmt.Errorf("stop tasks: %d of %d have not ended: %w", len(ends)-i, len(ends), ctx.Err())
		}
	}
	return nil
}

// depart makes the task's goroutine stop the task, and returns a channel that is closed once the
// goroutine has ended.
func (t *taskLoop) depart() <-chan struct{} {
	t.change(func() { t.departing = true })
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.busy {
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	return t.ended
}
