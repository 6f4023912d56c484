package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/explain"
	"swarm/internal/pause"
	"swarm/internal/printable"
	swarmv1 "swarm/proto/swarm/v1"
)

// waitOptions say what is waited for.
type waitOptions struct {
	serviceID string
	quiet     bool
	// revision and index are those of the change: the manager judges nothing that is older.
	revision, index uint64
}

// outage is how long no manager may answer before waiting is given up.
const outage = 30 * time.Second

// wait shows the progress of the service until a manager says that it has converged, and returns an
// error if it will not. Interrupted, it leaves the service as it is, and returns nil.
func (a *app) wait(ctx context.Context, c client, o waitOptions) error {
	view := newView(a.Err, o.quiet)
	lastAnswer := a.Now()
	for {
		name, verdict, err := followService(ctx, c, o, func(p *swarmv1.ServiceProgress) {
			lastAnswer = a.Now()
			view.show(p)
		})
		switch {
		case ctx.Err() != nil:
			view.end()
			return a.background(cmp.Or(name, o.serviceID))
		case err != nil && (!isUnavailable(err) || a.Now().Sub(lastAnswer) > outage):
			return err
		case err != nil:
			_ = pause.For(ctx, time.Second) // The manager may be restarting. If ctx has ended, the next turn sees it.
		case verdict.GetConverged():
			view.done()
			a.warn(verdict.GetWarnings())
			return nil
		default:
			view.end()
			return a.report(name, verdict)
		}
	}
}

// followService calls show with the progress of the service until there is a verdict. It returns the
// name of the service.
func followService(ctx context.Context, c client, o waitOptions, show func(*swarmv1.ServiceProgress)) (string, *swarmv1.ServiceVerdict, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.WaitService(ctx, &swarmv1.WaitServiceRequest{Id: o.serviceID, Index: o.index, Revision: o.revision})
	if err != nil {
		return "", nil, err
	}
	name := ""
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = errdefs.ErrUnavailable.WithMessage("the manager stopped answering")
		}
		if err != nil {
			return name, nil, err
		}
		name = r.GetProgress().GetServiceName()
		show(r.GetProgress())
		if r.GetVerdict() != nil {
			return name, r.GetVerdict(), nil
		}
	}
}

// slowAnswer is after how long a user wants to know why nothing happens.
const slowAnswer = time.Second

// saySlow says why the call that is under way takes so long, once it does. "" is nothing to say. What it returns ends that,
// and waits.
func (a *app) saySlow(ctx context.Context, why func(context.Context) string) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if pause.For(ctx, slowAnswer) != nil {
			return
		}
		if text := why(ctx); text != "" {
			printf(a.Err, "%s\n", text)
		}
	}()
	return func() { cancel(); <-done }
}

// background is what Ctrl-C leaves behind, in Docker's words.
func (a *app) background(name string) error {
	printf(a.Err, "Operation continuing in background.\nUse `swarm service ps %s` to check progress.\n", name)
	return nil
}

// report says why the service does not converge: details and the last log lines first, then the
// error in one line.
func (a *app) report(name string, v *swarmv1.ServiceVerdict) error {
	if u := v.GetUnplaced(); u != nil {
		printf(a.Err, "no node takes a task of %s:\n", name)
		for _, r := range u.GetRefusals() {
			printf(a.Err, "  %s\n", explain.Refusal(r))
		}
		if u.GetNearest() != "" {
			printf(a.Err, "  nearest: %s\n", u.GetNearest())
		}
	}
	a.showLastLogs(v.GetTask(), v.GetLog())
	msg := v.GetReason()
	if v.GetOutlook() != "" {
		msg += fmt.Sprintf("; %s; see `swarm service ps %s`", v.GetOutlook(), name)
	}
	if v.GetHint() != "" {
		msg += "; " + v.GetHint()
	}
	return errdefs.ErrFailedPrecondition.WithMessage(msg)
}

func (a *app) showLastLogs(t *swarmv1.TaskInfo, records []*swarmv1.LogRecord) {
	if len(records) == 0 {
		return
	}
	var lines strings.Builder
	printer := &logPrinter{out: &lines, err: &lines, raw: true}
	for _, r := range records {
		printer.print(r)
	}
	printf(a.Err, "last lines of %s (%s):\n", taskName(t), shortID(t.Task.GetId()))
	for line := range strings.Lines(lines.String()) {
		fmt.Fprintln(a.Err, "  "+strings.TrimRight(line, "\r\n")) // printf: a line of a log keeps its tabs
	}
}

// shownSlots is up to how many tasks get a line of their own.
const shownSlots = 20

// view shows progress: redrawn in place on a terminal, else only what has changed, line by line.
type view struct {
	w     io.Writer
	quiet bool
	tty   terminal
	drawn int
	last  []string
	// progress is what was shown last.
	progress *swarmv1.ServiceProgress
}

func newView(w io.Writer, quiet bool) *view { return &view{w: w, quiet: quiet, tty: terminalOf(w)} }

func (v *view) show(p *swarmv1.ServiceProgress) {
	v.progress = p
	if v.quiet {
		return
	}
	slots := shownSlots
	if v.tty != nil {
		if _, height, err := v.tty.Size(); err == nil && height > 0 { // What scrolls out of the screen cannot be drawn anew.
			slots = min(slots, height-len(progressLines(p, true, 0))-1)
		}
	}
	v.draw(progressLines(p, v.tty != nil, slots))
}

func (v *view) done() {
	v.show(v.progress)
	if !v.quiet {
		printf(v.w, "verify: Service %s converged%s\n", v.progress.GetServiceName(), rest(v.progress))
	}
}

// rest is what there is to know of a service that has converged though not all of its tasks run, or too many do.
func rest(p *swarmv1.ServiceProgress) string {
	be := func(n uint64) string {
		if n == 1 {
			return "is"
		}
		return "are"
	}
	words := ""
	if n := p.GetEnded(); n > 0 {
		words = fmt.Sprintf(": %d of %d tasks ended with exit code 0 and %s not restarted", n, p.GetDesired(), be(n))
	}
	if n := p.GetStopping(); n > 0 {
		words += fmt.Sprintf("; %d task%s %s still being stopped", n, plural(int(n)), be(n))
	}
	return words
}

// end leaves the last picture where it is.
func (v *view) end() { v.drawn = 0 }

func (v *view) draw(lines []string) {
	if v.tty == nil {
		for _, line := range lines {
			if !slices.Contains(v.last, line) {
				printf(v.w, "%s\n", line)
			}
		}
		v.last = lines
		return
	}
	width, _, err := v.tty.Size()
	if err != nil || width <= 0 {
		width = helpWidth
	}
	var b strings.Builder
	if v.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", v.drawn) // printf: moves the cursor
	}
	for _, line := range lines {
		line = printable.Line(line)
		if r := []rune(line); len(r) >= width {
			line = string(r[:width-1])
		}
		b.WriteString("\x1b[2K" + line + "\r\n")
	}
	b.WriteString("\x1b[J")
	v.drawn = len(lines)
	_, _ = io.WriteString(bytesOf(v.w), b.String())
}

// progressLines returns the lines that show progress, in Docker's words. Only a terminal, where the
// lines are drawn anew, shows a countdown and the tasks that the update has not touched yet. If
// there are more slots than the given number, no slot has a line of its own.
func progressLines(p *swarmv1.ServiceProgress, terminal bool, slots int) []string {
	overall := fmt.Sprintf("overall progress: %d out of %d tasks", p.GetRunning(), p.GetDesired())
	if p.GetJob() {
		overall = fmt.Sprintf("job progress: %d out of %d complete", p.GetRunning(), p.GetDesired())
	}
	lines := []string{overall}
	if len(p.GetSlots()) <= slots {
		for _, s := range p.GetSlots() {
			if line := slotLine(s); terminal || line != s.GetLabel()+":" && !s.GetOutdated() {
				lines = append(lines, line)
			}
		}
	}
	if p.GetNote() != "" {
		lines = append(lines, p.GetNote())
	}
	if p.GetStableIn() != nil {
		if !terminal {
			return append(lines, "verify: Waiting to verify that tasks are stable...")
		}
		seconds := int((p.GetStableIn().AsDuration() + time.Second - 1) / time.Second)
		lines = append(lines, fmt.Sprintf("verify: Waiting %d second%s to verify that tasks are stable...", seconds, plural(seconds)))
	}
	return lines
}

// slotLine returns the line of one slot: "1/3: preparing", or "1/3:" if it has no task and there is
// nothing to say about it.
func slotLine(s *swarmv1.SlotProgress) string {
	line := s.GetLabel() + ":"
	if s.GetState() != swarmv1.TaskState_NEW {
		line += " " + enumWord(s.GetState())
	}
	if s.GetOutdated() {
		line += " (old)"
	}
	if s.GetDetail() != "" {
		line += " " + s.GetDetail()
	}
	return line
}
