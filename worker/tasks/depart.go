package tasks

import (
	"context"
	"fmt"
)

// Depart stops every task with its signal and its grace period, because the host goes down,
// whatever the managers want of it. It returns when all have ended, or an error with ctx's error.
// Tasks that are assigned after session.Client.Depart do not start.
func (r *Runner) Depart(ctx context.Context) error {
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

// depart stops the task whatever the managers want of it. It returns a channel that is closed once
// the task's goroutine has ended.
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
