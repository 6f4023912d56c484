package tasks

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/pause"
	"swarm/internal/spec"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/assignment"
	"swarm/worker/engine"
	"swarm/worker/retry"
)

const (
	// maxAttempts is how many times withRetries makes a call that fails with a transient error.
	maxAttempts = 4
	retryFirst  = 500 * time.Millisecond
	retryLimit  = 4 * time.Second
	// maxPulls is how many times an image is pulled before the task is rejected. All pauses between
	// the pulls together take up to 15 s, in which a registry can restart. The node keeps the bytes
	// that it has received, so the task that replaces the rejected one does not fetch them again.
	maxPulls  = 5
	pullFirst = time.Second
	pullLimit = 16 * time.Second
	// exitTimeout bounds the question how a stopped container ended.
	exitTimeout = 5 * time.Second
	// leasePoll is how often a single-writer task looks whether its node has a lease again.
	leasePoll = 100 * time.Millisecond
)

// perform performs an action and returns its outcome. If ctx ends first, the outcome is a Look,
// which makes the table decide anew.
func (t *taskLoop) perform(ctx context.Context, action task.Action) outcome {
	var out outcome
	switch action {
	case task.Accept:
		return outcome{event: task.Accepted}
	case task.Prepare:
		out = t.prepare(ctx)
	case task.Start:
		out = t.start(ctx)
	case task.Probe:
		out = t.probe(ctx)
	case task.Watch:
		out = t.watch(ctx)
	case task.Stop:
		out = t.stop(ctx)
	case task.Clean:
		out = t.clean(ctx)
	}
	if out.err != nil && ctx.Err() != nil {
		return outcome{event: task.Look}
	}
	return out
}

// prepare is the action Prepare.
func (t *taskLoop) prepare(ctx context.Context) outcome {
	if err := t.createContainer(ctx); err != nil {
		return outcome{event: task.Refused, err: err}
	}
	return outcome{event: task.Prepared}
}

// createContainer pulls the image, attaches the networks, writes the files and creates the
// container. It is idempotent.
func (t *taskLoop) createContainer(ctx context.Context) error {
	in, err := t.r.inputsOf(ctx, t.now())
	if err != nil {
		return err
	}
	t.revision = in.revision
	if err := t.pull(ctx, in.revision); err != nil {
		return err
	}
	attached, err := t.attach(ctx, in)
	if err != nil {
		return err
	}
	c, err := t.r.containerOf(in, attached)
	if err != nil {
		return err
	}
	if exchanges(in.revision) {
		t.r.writeDataRevision(t.id, in.revision.GetNumber())
	}
	t.dataRevision, t.dataOf = in.revision.GetNumber(), in.revision
	t.created(in.revision)
	return t.withRetries(ctx, "create container", func() error { return t.prepareContainer(ctx, c) })
}

// created records that the container is created with all of rev. The next status reports it.
func (t *taskLoop) created(rev *swarmv1.Revision) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.status.CloneVT()
	s.AppliedRevision = rev.GetNumber()
	t.status = s
}

// prepareContainer calls Runtime.Prepare. If the image was removed after the pull, it pulls the
// image again and returns ErrNotFound, after which the caller calls it again.
func (t *taskLoop) prepareContainer(ctx context.Context, c engine.Container) error {
	err := t.untilAnswered(ctx, "create container", func() error {
		return t.r.withPermit(ctx, func() error { return t.r.deps.Runtime.Prepare(ctx, c) })
	})
	if errdefs.IsNotFound(err) {
		if perr := t.pull(ctx, c.Revision); perr != nil {
			return perr
		}
	}
	return err
}

// pull fetches the task's image. It repeats a pull that failed with a transient error, and the
// status of the task tells the user the error during the pauses.
func (t *taskLoop) pull(ctx context.Context, rev *swarmv1.Revision) error {
	spec := assignment.ContainerSpec(rev)
	req := engine.PullRequest{Ref: spec.GetImage(), Auth: spec.GetPullOptions().GetRegistryAuth(), Platform: spec.GetPlatform()}
	for try := 1; ; try++ {
		err := t.untilAnswered(ctx, "pull image", func() error {
			_, err := t.r.deps.Images.Pull(ctx, req, nil)
			return err
		})
		if err == nil {
			return nil
		}
		err = fmt.Errorf("pull image %s: %w", familiar(req.Ref), err)
		if ctx.Err() != nil || retry.IsPermanent(err) || errdefs.IsNotFound(err) || try == maxPulls {
			return err
		}
		wait := retry.Backoff(try-1, pullFirst, pullLimit)
		t.r.deps.Log.Warn("pull image", "task", t.id, "err", err, "again", wait)
		t.setErr(fmt.Sprintf("%v; trying again in %.0f s (attempt %d)", err, math.Ceil(wait.Seconds()), try))
		if pause.For(ctx, wait) != nil {
			return err
		}
	}
}

// familiar returns an image reference in the short form in which users write it.
func familiar(ref string) string {
	if image, err := spec.ParseImage(ref); err == nil {
		return image.Familiar()
	}
	return ref
}

// attach connects the task to its networks and saves the attachment. A task on the host's network
// needs none.
func (t *taskLoop) attach(ctx context.Context, in *inputs) (engine.Attached, error) {
	if onHost(in.attachment) {
		a := engine.Attached{Ports: in.attachment.Ports}
		t.setAttached(a)
		return a, nil
	}
	var a engine.Attached
	err := t.withRetries(ctx, "attach networks", func() error {
		var err error
		a, err = t.r.deps.Network.Attach(ctx, in.attachment)
		return err
	})
	if err != nil {
		return a, fmt.Errorf("attach networks: %w", err)
	}
	if err := t.r.deps.State.SetAttached(t.id, a); err != nil {
		return a, fmt.Errorf("attach networks: %w", err)
	}
	t.setAttached(a)
	return a, nil
}

func (t *taskLoop) setAttached(a engine.Attached) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attached = a
}

// start is the action Start. A container that an earlier daemon has started counts as started. A
// single-writer task waits while its node has no lease, because another node may have taken over.
func (t *taskLoop) start(ctx context.Context) outcome {
	rev := t.revision
	if rev == nil {
		rev = t.r.deps.Objects.Revision(t.now())
	}
	for rev.GetSpec().GetSingleWriter() && t.r.deps.Managers.LeaseLeft() <= 0 {
		if err := pause.For(ctx, leasePoll); err != nil {
			return outcome{event: task.Look, err: err}
		}
	}
	var started engine.Started
	err := t.untilAnswered(ctx, "start container", func() error {
		return t.r.withPermit(ctx, func() error {
			var err error
			started, err = t.r.deps.Runtime.Start(ctx, t.id)
			return err
		})
	})
	switch {
	case errdefs.IsFailedPrecondition(err):
		return outcome{event: task.Started}
	case err != nil:
		return outcome{event: task.Refused, err: err}
	}
	return outcome{event: task.Started, pid: started.Pid}
}
