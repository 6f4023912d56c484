package tasks

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/pause"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/assignment"
	"swarm/worker/engine"
	"swarm/worker/health"
	"swarm/worker/retry"
)

// healthProber returns the task's prober, and creates it at the first call. It is nil if the task
// has no health check. It is also nil if the image's health check cannot be read now: then the task
// counts as healthy, and the next call tries again.
func (t *taskLoop) healthProber(ctx context.Context) *health.Prober {
	if t.proberKnown {
		return t.prober
	}
	rev := t.revision
	if rev == nil { // The revision of the container's limits is not known yet.
		rev = t.r.deps.Objects.Revision(t.now())
	}
	service := assignment.ContainerSpec(rev).GetHealthcheck()
	var image engine.ImageDefaults
	if len(service.GetTest()) == 0 || health.Enabled(service) {
		err := t.untilAnswered(ctx, "read the image's health check", func() (err error) {
			image, err = t.r.deps.Runtime.ImageDefaults(ctx, t.id)
			return err
		})
		if err != nil {
			if ctx.Err() == nil && !errdefs.IsNotFound(err) { // wait reports a container that is missing.
				t.r.deps.Log.Error("read the image's health check", "task", t.id, "err", err)
			}
			return nil
		}
	}
	t.proberKnown = true
	check := health.Merge(service, image.Healthcheck)
	if !health.Enabled(check) {
		return nil
	}
	t.mu.Lock()
	netns := t.attached.Netns
	t.mu.Unlock()
	t.prober = health.New(check, health.Target{
		Exec: func(ctx context.Context, command []string, out *health.Output) (int, error) {
			return t.r.deps.Executor.Exec(ctx, &swarmv1.ExecStart{TaskId: t.id, Command: command}, engine.ExecStreams{Stdout: out, Stderr: out, Whole: true})
		},
		Shell: image.Shell,
		Netns: netns,
	})
	return t.prober
}

// check watches a task while its loop waits for the container. It blocks until it has an outcome,
// or until ctx ends.
type check func(ctx context.Context) outcome

// probe waits until the container is healthy, or has ended.
func (t *taskLoop) probe(ctx context.Context) outcome {
	exchange := t.applyRevision(ctx)
	p := t.healthProber(ctx)
	if p == nil {
		return outcome{event: task.Healthy}
	}
	return t.waitOrCheck(ctx, append(append(t.leaseCheck(), exchange...), func(ctx context.Context) outcome {
		if err := p.UntilHealthy(ctx); err != nil {
			return outcome{event: task.Sick, err: err}
		}
		return outcome{event: task.Healthy}
	}))
}

// watch waits until the container ends or is unhealthy. If the container has ended and no manager
// is in contact, watch starts the container again, because no manager can replace the task.
func (t *taskLoop) watch(ctx context.Context) outcome {
	for {
		checks := t.applyRevision(ctx)
		if p := t.healthProber(ctx); p != nil {
			checks = append(checks, func(ctx context.Context) outcome {
				return outcome{event: task.Sick, err: p.UntilUnhealthy(ctx)}
			})
		}
		out := t.waitOrCheck(ctx, append(checks, t.leaseCheck()...))
		if out.exit == nil || ctx.Err() != nil || !t.restart(ctx, *out.exit) {
			return out
		}
	}
}

// leaseCheck returns a check that ends when the last quarter of the node's lease begins, which
// makes the loop stop a single-writer task. It returns none for other tasks. The task has that
// quarter to stop by itself. When the lease has run out, the shim kills the container, even if this
// daemon is gone.
func (t *taskLoop) leaseCheck() []check {
	if !t.revision.GetSpec().GetSingleWriter() {
		return nil
	}
	return []check{func(ctx context.Context) outcome {
		return outcome{event: task.Sick, err: t.r.deps.Managers.AwaitLeaseLost(ctx)}
	}}
}

// waitOrCheck waits for the container's end or for the first outcome of a check. If both have
// happened, it returns the container's end.
func (t *taskLoop) waitOrCheck(ctx context.Context, checks []check) outcome {
	if len(checks) == 0 {
		return t.wait(ctx)
	}
	actx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan outcome, len(checks))
	var wg sync.WaitGroup
	for _, c := range checks {
		wg.Go(func() {
			out := c(actx)
			if actx.Err() == nil {
				answers <- out
				cancel()
			}
		})
	}
	out := t.wait(actx)
	cancel()
	wg.Wait()
	if out.exit != nil {
		return out
	}
	select {
	case answer := <-answers:
		return answer
	default:
		return out
	}
}

// wait waits for the container's end, and then for the managers' first complete set of assignments.
// An earlier daemon may have stopped the container at the managers' wish and been killed before it
// wrote that down. Then the assignments say that the task stops, and the end is not a failure.
func (t *taskLoop) wait(ctx context.Context) outcome {
	for try := 0; ; try++ {
		exit, err := t.r.deps.Runtime.Wait(ctx, t.id)
		if err == nil || errdefs.IsNotFound(err) {
			t.r.deps.Managers.AwaitSynced(ctx)
		}
		if ctx.Err() != nil && err != nil {
			return outcome{event: task.Look, err: ctx.Err()}
		}
		if errdefs.IsNotFound(err) { // After a reboot, or if somebody removed it by hand.
			exit, err = engine.Exit{Code: -1, At: time.Now(), CodeUnknown: true}, nil
		}
		if err != nil {
			t.r.deps.Log.Warn("wait for container", "task", t.id, "err", err)
			_ = pause.For(ctx, retry.Backoff(try, 100*time.Millisecond, retryLimit))
			continue
		}
		out := outcome{event: task.Ended, exit: &exit}
		if exit.Code != 0 || exit.CodeUnknown {
			out.event = task.Broke
		}
		return out
	}
}
