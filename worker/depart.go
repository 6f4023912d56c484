package worker

import (
	"context"
	"fmt"
)

// Depart is for a host that is going down. It tells the managers, which replace this node's tasks at once, and stops every
// task with its signal and its grace. It returns when all have ended, or with ctx's error. Run must be running, and is to
// be ended after it: tasks that are assigned meanwhile do not start.
func (w *Worker) Depart(ctx context.Context) error {
	w.managers.Depart(ctx)
	w.mu.Lock()
	loops := make([]*taskLoop, 0, len(w.tasks))
	for _, t := range w.tasks {
		loops = append(loops, t)
	}
	w.mu.Unlock()
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
	w.managers.Flush(ctx)
	return nil
}

// depart stops the task whatever is wanted of it, and returns what is closed when it has ended.
func (t *taskLoop) depart() <-chan struct{} {
	t.change(func() { t.departs = true })
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.busy {
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	return t.ended
}
