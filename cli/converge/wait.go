package converge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"swarm/cli/command"
	"swarm/cli/logs"
	"swarm/cli/term"
	"swarm/internal/explain"
	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// outage is how long Wait goes on while no manager answers.
	outage = 30 * time.Second
	// retryPause is how long Wait pauses before it calls a manager again.
	retryPause = time.Second
)

// Change names the change to wait for, from the response of the call that made it. Package
// manager/converge has the same type, because cli does not import manager.
type Change struct {
	ServiceID string
	// Revision is the revision that the change made current. 0 stands for the revision that is
	// current when the wait begins; for a new service that is its first one.
	Revision uint64
	// Index is the index of the log entry that made the change. A failure that was reported before
	// that entry does not count. If Index is 0, all failures of tasks of the revision count.
	Index uint64
}

// Wait shows the progress of the service on deps.Err, unless quiet is set, and returns when the
// service has converged. It returns ErrFailedPrecondition with the reason if the service will not
// converge, and ErrNotFound if the service is removed. If ctx ends, Wait prints that the cluster
// goes on with the change, and returns nil.
func Wait(ctx context.Context, deps *command.Deps, c command.Client, change Change, quiet bool) error {
	view := newView(deps.Err, quiet)
	name, lastAnswer := change.ServiceID, deps.Now()
	for {
		verdict, err := follow(ctx, c, change, func(p *swarmv1.ServiceProgress) {
			name, lastAnswer = cmp.Or(p.GetServiceName(), name), deps.Now()
			view.show(p)
		})
		switch {
		case ctx.Err() != nil:
			term.Printf(deps.Err, "Operation continuing in background.\nUse `swarm service ps %s` to check progress.\n", name)
			return nil
		case err != nil && (!command.IsUnavailable(err) || deps.Now().Sub(lastAnswer) > outage):
			return err
		case err != nil:
			_ = pause.For(ctx, retryPause) // If ctx has ended, the next call finds it.
		case verdict.GetConverged():
			view.done()
			deps.Warn(verdict.GetWarnings())
			return nil
		default:
			return report(deps, name, verdict)
		}
	}
}

// follow calls show with the progress of the service until there is a verdict.
func follow(ctx context.Context, c command.Client, change Change, show func(*swarmv1.ServiceProgress)) (*swarmv1.ServiceVerdict, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.WaitService(ctx, &swarmv1.WaitServiceRequest{Id: change.ServiceID, Index: change.Index, Revision: change.Revision})
	if err != nil {
		return nil, err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = errdefs.ErrUnavailable.WithMessage("the manager stopped answering")
		}
		if err != nil {
			return nil, err
		}
		show(r.GetProgress())
		if r.GetVerdict() != nil {
			return r.GetVerdict(), nil
		}
	}
}

// report prints the details of a verdict, and returns the verdict in one line.
func report(deps *command.Deps, name string, v *swarmv1.ServiceVerdict) error {
	if u := v.GetUnplaced(); u != nil {
		term.Printf(deps.Err, "no node takes a task of %s:\n", name)
		for _, r := range u.GetRefusals() {
			term.Printf(deps.Err, "  %s\n", explain.Refusal(r))
		}
		if u.GetNearest() != "" {
			term.Printf(deps.Err, "  nearest: %s\n", u.GetNearest())
		}
	}
	if len(v.GetLog()) > 0 {
		term.Printf(deps.Err, "last lines of %s (%s):\n", term.TaskName(v.GetTask()), term.ShortID(v.GetTask().GetTask().GetId()))
		for line := range strings.Lines(logs.Text(v.GetLog())) {
			fmt.Fprintln(deps.Err, "  "+strings.TrimRight(line, "\r\n")) // not term.Printf: a line of a log keeps its tabs
		}
	}
	msg := v.GetReason()
	if v.GetOutlook() != "" {
		msg += fmt.Sprintf("; %s; see `swarm service ps %s`", v.GetOutlook(), name)
	}
	if v.GetHint() != "" {
		msg += "; " + v.GetHint()
	}
	return errdefs.ErrFailedPrecondition.WithMessage(msg)
}
