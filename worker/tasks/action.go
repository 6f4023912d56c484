package tasks

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/pause"
	"swarm/internal/spec"
	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/assignment"
	"swarm/worker/engine"
	"swarm/worker/health"
	"swarm/worker/retry"
)

const (
	// tries of what may pass: a pull, an attachment, a create.
	tries      = 4
	retryFirst = 500 * time.Millisecond
	retryLimit = 4 * time.Second
	// pullTries of an image: a registry that is busy or restarts is back within their pauses, 15 s at most. What has come
	// by then is kept, so that the task that replaces a rejected one goes on there.
	pullTries    = 5
	pullFirst    = time.Second
	pullLimit    = 16 * time.Second
	exitPatience = 5 * time.Second // for the runtime to tell how a stopped container ended
	leasePoll    = 100 * time.Millisecond
	// defaultGrace is Docker's stop grace period.
	defaultGrace = 10 * time.Second
)

// perform does an action to its end. When ctx ended first, the outcome is a Look: the table decides anew.
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

// prepare pulls, attaches, writes the files and creates the container. Doing it again changes nothing.
func (t *taskLoop) prepare(ctx context.Context) outcome {
	err := t.prepared(ctx)
	if err != nil {
		return outcome{event: task.Refused, err: err}
	}
	return outcome{event: task.Prepared}
}

func (t *taskLoop) prepared(ctx context.Context) error {
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
	c, err := t.r.container(in, attached)
	if err != nil {
		return err
	}
	return t.tryOften(ctx, "create container", func() error {
		err := t.answered(ctx, "create container", func() error {
			return t.r.slot(ctx, func() error { return t.r.deps.Runtime.Prepare(ctx, c) })
		})
		if errdefs.IsNotFound(err) { // the image went between the pull and now
			if perr := t.pull(ctx, in.revision); perr != nil {
				return perr
			}
		}
		return err
	})
}

// pull makes the node hold the task's image. What may pass is tried again, and the task says meanwhile what is wrong.
func (t *taskLoop) pull(ctx context.Context, rev *swarmv1.Revision) error {
	spec := assignment.ContainerSpec(rev)
	req := engine.PullRequest{Ref: spec.GetImage(), Auth: spec.GetPullOptions().GetRegistryAuth(), Platform: spec.GetPlatform()}
	for try := 1; ; try++ {
		err := t.answered(ctx, "pull image", func() error {
			_, err := t.r.deps.Images.Pull(ctx, req, nil)
			return err
		})
		if err == nil {
			return nil
		}
		err = fmt.Errorf("pull image %s: %w", familiar(req.Ref), err) // which says what to do
		if ctx.Err() != nil || retry.IsPermanent(err) || errdefs.IsNotFound(err) || try == pullTries {
			return err
		}
		wait := retry.Backoff(try-1, pullFirst, pullLimit)
		t.r.deps.Log.Warn("pull image", "task", t.id, "err", err, "again", wait)
		t.ails(fmt.Sprintf("%v; trying again in %.0f s (attempt %d)", err, math.Ceil(wait.Seconds()), try))
		if pause.For(ctx, wait) != nil {
			return err
		}
	}
}

// familiar is a reference as users write it.
func familiar(ref string) string {
	if image, err := spec.ParseImage(ref); err == nil {
		return image.Familiar()
	}
	return ref
}

// attach connects the task to its networks, and remembers the place that it got.
func (t *taskLoop) attach(ctx context.Context, in *inputs) (engine.Attached, error) {
	if onHost(in.attachment) {
		a := engine.Attached{Ports: in.attachment.Ports}
		t.setAttached(a)
		return a, nil
	}
	var a engine.Attached
	err := t.tryOften(ctx, "attach networks", func() error {
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

// start starts the container. One that ran already, before this daemon, is taken as it is. A single-writer task waits while
// its node is out of contact: another node may have taken over.
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
	err := t.answered(ctx, "start container", func() error {
		return t.r.slot(ctx, func() error {
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

// healthProber makes the task's prober once; nil: it has no health check.
func (t *taskLoop) healthProber(ctx context.Context) *health.Prober {
	if t.probed {
		return t.prober
	}
	rev := t.revision
	if rev == nil { // Which limits the container has is still not known.
		rev = t.r.deps.Objects.Revision(t.now())
	}
	own := assignment.ContainerSpec(rev).GetHealthcheck()
	var image engine.ImageDefaults
	if len(own.GetTest()) == 0 || health.Enabled(own) {
		err := t.answered(ctx, "read the image's health check", func() (err error) {
			image, err = t.r.deps.Runtime.ImageDefaults(ctx, t.id)
			return err
		})
		if err != nil {
			if ctx.Err() == nil && !errdefs.IsNotFound(err) { // Without a container the wait tells.
				t.r.deps.Log.Error("read the image's health check", "task", t.id, "err", err)
			}
			return nil
		}
	}
	t.probed = true
	check := health.Merge(own, image.Healthcheck)
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

// check is what a task is attended by besides its container: it blocks until it has something to say, or ctx ends.
type check func(ctx context.Context) outcome

// probe waits until the container is healthy, or has ended.
func (t *taskLoop) probe(ctx context.Context) outcome {
	t.tune(ctx)
	p := t.healthProber(ctx)
	if p == nil {
		return outcome{event: task.Healthy}
	}
	return t.attend(ctx, append(t.fence(), func(ctx context.Context) outcome {
		if err := p.UntilHealthy(ctx); err != nil {
			return outcome{event: task.Sick, err: err}
		}
		return outcome{event: task.Healthy}
	}))
}

// watch waits for the container's end, or until it is unhealthy. Out of contact with every manager it starts an ended
// container again, as the managers would have it replaced.
func (t *taskLoop) watch(ctx context.Context) outcome {
	for {
		t.tune(ctx)
		var checks []check
		if p := t.healthProber(ctx); p != nil {
			checks = append(checks, func(ctx context.Context) outcome {
				return outcome{event: task.Sick, err: p.UntilSick(ctx)}
			})
		}
		out := t.attend(ctx, append(checks, t.fence()...))
		if out.exit == nil || ctx.Err() != nil || !t.revive(ctx, *out.exit) {
			return out
		}
	}
}

// fence stops a single-writer task before the lease of its node runs out. The task has the last quarter of
// the lease to stop by itself; when the lease has run out its shim kills it, also when this daemon is gone.
func (t *taskLoop) fence() []check {
	if !t.revision.GetSpec().GetSingleWriter() {
		return nil
	}
	return []check{func(ctx context.Context) outcome {
		return outcome{event: task.Sick, err: t.r.deps.Managers.AwaitLeaseLost(ctx)}
	}}
}

// attend waits for the container's end, or for the first check that has an answer.
func (t *taskLoop) attend(ctx context.Context, checks []check) outcome {
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

// wait waits for the container's end, and until the managers have said what they want of the task: a daemon that was killed
// may have stopped the container and not have written down that it was asked to. Such an end is no failure.
func (t *taskLoop) wait(ctx context.Context) outcome {
	for try := 0; ; try++ {
		exit, err := t.r.deps.Runtime.Wait(ctx, t.id)
		if err == nil || errdefs.IsNotFound(err) {
			t.r.deps.Managers.AwaitSynced(ctx)
		}
		if ctx.Err() != nil && err != nil {
			return outcome{event: task.Look, err: ctx.Err()}
		}
		if errdefs.IsNotFound(err) { // a reboot, or someone's hand: it does not run
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

// stop stops the container, however often that takes, and says how it ended.
func (t *taskLoop) stop(ctx context.Context) outcome {
	if t.revision == nil {
		t.revision = t.r.deps.Objects.Revision(t.now())
	}
	spec := assignment.ContainerSpec(t.revision)
	grace := defaultGrace
	if g := spec.GetStopGracePeriod(); g != nil {
		grace = g.AsDuration()
	}
	t.drain(ctx)
	t.r.deps.Log.Debug("stop", "task", t.id)
	if !retry.Until(ctx, t.r.deps.Log, "stop container", func() error { return t.r.deps.Runtime.Stop(ctx, t.id, spec.GetStopSignal(), grace) }) {
		return outcome{event: task.Look, err: ctx.Err()}
	}
	wctx, cancel := context.WithTimeout(ctx, exitPatience)
	defer cancel()
	out := outcome{event: task.Stopped}
	if exit, err := t.r.deps.Runtime.Wait(wctx, t.id); err == nil {
		out.exit = &exit
	}
	return out
}

// clean removes all there is of the task but its logs, however often that takes.
func (t *taskLoop) clean(ctx context.Context) outcome {
	if !retry.Until(ctx, t.r.deps.Log, "remove container", func() error { return t.r.Remove(ctx, t.id) }) {
		return outcome{event: task.Look, err: ctx.Err()}
	}
	return outcome{event: task.Cleaned}
}

// Remove removes a task's container, network attachment and files, but not its log. It is idempotent
// and needs no loop: storage calls it for containers that belong to no task.
func (r *Runner) Remove(ctx context.Context, id string) error {
	if err := r.slot(ctx, func() error { return r.deps.Runtime.Remove(ctx, id) }); err != nil {
		return fmt.Errorf("remove container of task %s: %w", id, err)
	}
	if err := r.deps.Network.Detach(ctx, id); err != nil {
		return fmt.Errorf("detach task %s: %w", id, err)
	}
	r.deps.State.ForgetAttached(id)
	if r.deps.Logs != nil {
		r.deps.Logs.Finish(id)
	}
	return os.RemoveAll(filepath.Join(r.cfg.Dir, id))
}

// revive starts an ended container again while no manager can replace it. False: the end is to be reported, because the
// policy says so or a manager is there.
func (t *taskLoop) revive(ctx context.Context, exit engine.Exit) bool {
	policy := t.revision.GetSpec().GetTaskTemplate().GetRestartPolicy()
	failed := exit.Code != 0 || exit.CodeUnknown
	switch {
	case t.revision == nil,
		t.revision.GetSpec().GetSingleWriter(),
		policy.GetCondition() == swarmv1.RestartPolicy_NONE,
		policy.GetCondition() == swarmv1.RestartPolicy_ON_FAILURE && !failed,
		policy.GetMaxAttempts() > 0 && uint64(t.restarts) >= policy.GetMaxAttempts():
		return false
	}
	delay := defaultRestartDelay
	if d := policy.GetDelay(); d != nil {
		delay = d.AsDuration()
	}
	if !t.r.deps.Managers.OutOfContact(ctx, delay) {
		return false
	}
	t.restarts++
	t.r.deps.Log.Info("no manager is reachable: starting the task again", "task", t.id, "err", describeExit(exit))
	err := t.answered(ctx, "remove container", func() error {
		return t.r.slot(ctx, func() error { return t.r.deps.Runtime.Remove(ctx, t.id) })
	})
	if err != nil {
		return false
	}
	t.prober, t.probed = nil, false
	if err := t.prepared(ctx); err != nil {
		return false
	}
	out := t.start(ctx)
	if out.event != task.Started {
		return false
	}
	t.revived(out.pid)
	return true
}

// revived notes that the task runs anew.
func (t *taskLoop) revived(pid uint32) {
	t.mu.Lock()
	s := t.status.CloneVT()
	s.Timestamp = timestamppb.Now()
	s.RunningSince = s.Timestamp
	s.ContainerStatus = &swarmv1.ContainerStatus{ContainerId: t.id, Pid: pid}
	t.status = s
	t.mu.Unlock()
	t.r.deps.Managers.Report(s, true)
}

// defaultRestartDelay is Docker's.
const defaultRestartDelay = 5 * time.Second

// tryOften does something a few times, unless the error says that this is of no use.
func (t *taskLoop) tryOften(ctx context.Context, what string, do func() error) error {
	for try := 0; ; try++ {
		err := do()
		if err == nil || ctx.Err() != nil || retry.IsPermanent(err) || try == tries-1 {
			return err
		}
		t.r.deps.Log.Warn(what, "task", t.id, "err", err)
		if pause.For(ctx, retry.Backoff(try, retryFirst, retryLimit)) != nil {
			return err
		}
	}
}

// awayTold is how many calls in a row the runtime leaves without an answer before users are told of it. One that was killed
// is back after two or three.
const awayTold = 5

// answered makes a call to the runtime until the runtime answers: its absence is no failure of the task.
func (t *taskLoop) answered(ctx context.Context, what string, do func() error) error {
	for try := 0; ; try++ {
		err := do()
		if !errors.Is(err, engine.ErrRuntimeAway) || ctx.Err() != nil {
			if try >= awayTold {
				t.ails("")
			}
			return err
		}
		t.r.deps.Log.Warn(what+" again", "task", t.id, "err", err)
		if try == awayTold-1 {
			t.ails(fmt.Sprintf("%s: %v", what, err))
		}
		if pause.For(ctx, retry.Backoff(try, 100*time.Millisecond, retryLimit)) != nil {
			return err
		}
	}
}

// describeExit is Docker's text of a failed container, with what more is known.
func describeExit(e engine.Exit) string {
	switch {
	case e.CodeUnknown:
		return "task: the container ended, and its exit code is not known"
	case e.Fenced:
		return "fenced: killed, because no manager has confirmed that its node is in contact, and another node may take over"
	case e.OOM:
		return fmt.Sprintf("task: non-zero exit (%d): out of memory", e.Code)
	case e.Code != 0:
		return fmt.Sprintf("task: non-zero exit (%d)", e.Code)
	default:
		return ""
	}
}
