package worker

import (
	"context"
	"fmt"
	"time"
)

const (
	// departPatience bounds the wait for the managers to count this node as down: tasks that are stopped before have ended,
	// for all that the managers know, by themselves.
	departPatience = 3 * time.Second
	// lastReport bounds the wait for them to take how the tasks ended. What they do not take now they are told later.
	lastReport = time.Second
)

// Depart is for a host that is going down. It tells the managers, which replace this node's tasks at once, and stops every
// task with its signal and its grace. It returns when all have ended, or with ctx's error. Run must be running, and is to
// be ended after it: tasks that are assigned meanwhile do not start.
func (w *Worker) Depart(ctx context.Context) error {
	w.departOnce.Do(func() { close(w.departing) })
	told, cancel := context.WithTimeout(ctx, departPatience)
	defer cancel()
	select {
	case <-w.parted:
	case <-told.Done():
		w.deps.Log.Warn("no manager has taken this node's goodbye: its tasks are replaced once it is missed")
	}
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
	last, cancel := context.WithTimeout(ctx, lastReport)
	defer cancel()
	select {
	case <-w.reports.settled():
	case <-last.Done():
	}
	return nil
}

// isDeparting says whether the host is going down.
func (w *Worker) isDeparting() bool {
	select {
	case <-w.departing:
		return true
	default:
		return false
	}
}

// hasParted notes that the managers count this node as down.
func (w *Worker) hasParted() { w.partOnce.Do(func() { close(w.parted) }) }

// depart stops the task whatever is wanted of it, and returns what is closed when it has ended.
func (t *taskLoop) depart() <-chan struct{} {
	t.change(func() { t.departs = true })
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.busy {
		return closedChan()
	}
	return t.ended
}
