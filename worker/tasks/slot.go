package tasks

import (
	"context"
	"sync"
	"time"
)

const (
	// slotLimit is how long work with a container may hold a slot. Work that takes longer goes on
	// without one: it waits for something, and with the slot all other tasks would wait too.
	slotLimit = 10 * time.Second
	// endTimeout is how long work may take to end after its context has ended. Then nobody waits
	// for it.
	endTimeout = 2 * time.Second
)

// slot calls do when one of the node's slots for work with containers is free. It returns when do
// has returned, or 2 s after ctx has ended: do may hang in the kernel, as in a file system that
// does not answer, where nothing can interrupt it. In that case the goroutine of do ends when the
// hanging call returns and do looks at ctx.
func (r *Runner) slot(ctx context.Context, do func() error) error {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	free := sync.OnceFunc(func() { <-r.slots })
	defer free()
	late := time.AfterFunc(slotLimit, func() {
		r.deps.Log.Warn("work with a container takes long: it continues without a slot", "after", slotLimit)
		free()
	})
	defer late.Stop()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	ending := time.NewTimer(endTimeout)
	defer ending.Stop()
	select {
	case err := <-done:
		return err
	case <-ending.C:
		r.deps.Log.Warn("work with a container does not end: nobody waits for it any more", "err", context.Cause(ctx))
		return ctx.Err()
	}
}
