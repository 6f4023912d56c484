package service

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"swarm/cli/command"
	"swarm/cli/logs"
	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

// waitOptions say what is waited for.
type waitOptions struct {
	serviceID string
	quiet     bool
	// before are the tasks that had failed when the change was made.
	before map[string]bool
	// oldUpdate is the status of the update before this one.
	oldUpdate *swarmv1.UpdateStatus
	rollback  bool
	// revision and index that the change made; older states are not looked at.
	revision, index uint64
}

const (
	// lookEvery bounds how long an event that was missed goes unseen.
	lookEvery = time.Second
	// lookGap keeps a busy service from being listed at every event.
	lookGap = 50 * time.Millisecond
	// outage is how long no manager may answer before waiting is given up.
	outage = 30 * time.Second
	// lastLogLines are shown of a task that failed.
	lastLogLines = 10
)

// wait shows how the service gets along until it has settled, and returns an error when it will not.
func wait(ctx context.Context, deps *command.Deps, c command.Client, o waitOptions) error {
	view := term.NewView(deps.Err, o.quiet)
	changes, stop := watchService(ctx, c, o.serviceID)
	defer stop()
	s := newSettler(o)
	seen, name := false, o.serviceID
	lastAnswer := deps.Now()
	for {
		service, tasks, err := lookAt(ctx, c, o.serviceID)
		v := verdict{}
		switch {
		case ctx.Err() != nil:
			return background(deps, name)
		case command.IsNotFound(err) && seen:
			return fmt.Errorf("service %s was removed while waiting for it: %w", name, errdefs.ErrNotFound)
		case err != nil && (command.IsUnavailable(err) || command.IsNotFound(err)) && deps.Now().Sub(lastAnswer) < outage:
		case err != nil:
			return err
		default:
			seen, name, lastAnswer = true, service.GetService().GetName(), deps.Now()
			if !s.knows(tasks) {
				learnRevisions(ctx, c, s, o.serviceID)
			}
			v = s.judge(deps.Now(), service, tasks)
			view.Show(v.progress)
		}
		switch {
		case v.settled:
			view.Done(v.progress)
			warnPorts(ctx, deps, c, service)
			return nil
		case v.failure != nil:
			view.End()
			return report(ctx, deps, c, name, v.failure)
		}
		pause := lookEvery
		if v.again > 0 {
			pause = min(pause, v.again)
		}
		if !sleep(ctx, lookGap, nil) || !sleep(ctx, pause-lookGap, changes) {
			view.End()
			return background(deps, name)
		}
	}
}

// sleep waits for d or for a change; false when the user has had enough.
func sleep(ctx context.Context, d time.Duration, changes <-chan struct{}) bool {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-changes:
	case <-timer.C:
	}
	return true
}

func lookAt(ctx context.Context, c command.Client, id string) (*swarmv1.ServiceInfo, []*swarmv1.TaskInfo, error) {
	service, err := c.GetService(ctx, &swarmv1.GetRequest{Id: id})
	if err != nil {
		return nil, nil, err
	}
	r, err := c.ListTasks(ctx, &swarmv1.ListRequest{Filter: &swarmv1.Filter{ServiceIds: []string{id}}})
	if err != nil {
		return nil, nil, err
	}
	return service, r.Tasks, nil
}

// learnRevisions fetches the templates of all revisions; when it cannot, the next look tries again.
func learnRevisions(ctx context.Context, c command.Client, s *settler, id string) {
	r, err := c.ListRevisions(ctx, &swarmv1.GetRequest{Id: id})
	if err != nil {
		return
	}
	for _, rev := range r.Revisions {
		s.learn(rev)
	}
}

// watchService tells of changes of the service and its tasks. It is a hint, never the truth: when the stream breaks, the
// waiting goes on at its own pace. stop ends it and waits.
func watchService(ctx context.Context, c command.Client, id string) (<-chan struct{}, func()) {
	ctx, cancel := context.WithCancel(ctx)
	changes, done := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(done)
		stream, err := c.Watch(ctx, &swarmv1.WatchRequest{
			Types: []string{"service", "task", "task_status"}, Filter: &swarmv1.Filter{ServiceIds: []string{id}},
		})
		for err == nil {
			if _, err = stream.Recv(); err == nil {
				select {
				case changes <- struct{}{}:
				default: // one that waits says as much as two
				}
			}
		}
	}()
	return changes, func() { cancel(); <-done }
}

// background is what Ctrl-C leaves behind, in Docker's words.
func background(deps *command.Deps, name string) error {
	term.Printf(deps.Err, "Operation continuing in background.\nUse `swarm service ps %s` to check progress.\n", name)
	return nil
}

// report says what went wrong: details and the last log lines first, then the error in one line.
func report(ctx context.Context, deps *command.Deps, c command.Client, name string, f *failure) error {
	if f.unplaced != nil {
		term.Printf(deps.Err, "no node takes a task of %s:\n", name)
		for _, r := range f.unplaced.GetRefusals() {
			term.Printf(deps.Err, "  %s\n", term.RefusalLine(r))
		}
		if f.unplaced.GetNearest() != "" {
			term.Printf(deps.Err, "  nearest: %s\n", f.unplaced.GetNearest())
		}
	}
	if f.task != nil {
		showLastLogs(ctx, deps, c, f.task)
	}
	return errdefs.ErrFailedPrecondition.WithMessage(f.text(name))
}

func showLastLogs(ctx context.Context, deps *command.Deps, c command.Client, t *swarmv1.TaskInfo) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	text, err := logs.LastLines(ctx, c, t.Task.GetId(), lastLogLines)
	if err != nil || text == "" {
		return // the reason has been told; the log is what more there is
	}
	term.Printf(deps.Err, "last lines of %s (%s):\n", term.TaskName(t), term.ShortID(t.Task.GetId()))
	for line := range strings.Lines(text) {
		fmt.Fprintln(deps.Err, "  "+strings.TrimRight(line, "\r\n")) // printf: a line of a log keeps its tabs
	}
}
