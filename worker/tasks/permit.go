package tasks

import (
	"context"
	"sync"
	"time"
)

const (
	// permitLimit is how long work with a container may hold a permit. Work that takes longer
	// continues without a permit. It waits for something, and if it kept the permit, other tasks
	// would wait too.
	permitLimit = 10 * time.Second
	// endTimeout is how long the task waits for work to end after its context has ended.
	endTimeout = 2 * time.Second
)

// withPermit calls the function do when one of the node's permits for work with containers is free,
// and returns the error of do. If do is still running 2 s after ctx has ended, withPermit returns
// the error of ctx and leaves do running: such a call hangs in the kernel, for example in a file
// system that does not answer, and nothing can interrupt it. Its goroutine ends when the kernel
// answers.
func (r *Runner) withPermit(ctx context.Context, do func() error) error {
	select {
	case r.permits <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	free := sync.OnceFunc(func() { <-r.permits })
	defer free()
	late := time.AfterFunc(permitLimit, func() {
		r.deps.Log.Warn("work with a container takes long: it continues without a permit", "after", permitLimit)
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
