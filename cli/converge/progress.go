package converge

import (
	"fmt"
	"io"
	"time"

	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

// view shows the progress of a service, or nothing if quiet is set.
type view struct {
	*term.View
	w     io.Writer
	quiet bool
	last  *swarmv1.ServiceProgress
}

func newView(w io.Writer, quiet bool) *view {
	return &view{View: term.NewView(w, quiet), w: w, quiet: quiet}
}

func (v *view) show(p *swarmv1.ServiceProgress) {
	v.last = p
	maxSlots := term.MaxLines
	if height := v.Height(); height > 0 {
		// A line that has scrolled off the screen cannot be drawn again.
		others := lines(p, true, 0) // all lines but those of slots
		maxSlots = min(maxSlots, height-len(others)-1)
	}
	v.Draw(lines(p, v.OnTerminal(), maxSlots))
}

// done prints that the service has converged.
func (v *view) done() {
	if !v.quiet {
		term.Printf(v.w, "verify: Service %s converged%s\n", v.last.GetServiceName(), exceptions(v.last))
	}
}

// exceptions returns what follows "Service web converged": how many tasks have ended and are not
// restarted, and how many tasks still stop. It returns "" if there are none.
func exceptions(p *swarmv1.ServiceProgress) string {
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
		words += fmt.Sprintf("; %d task%s %s still being stopped", n, term.Plural(int(n)), be(n))
	}
	return words
}

// lines returns the lines that show progress, in Docker's words. On a terminal they are drawn again
// in the same place; they have a countdown and all slots. Elsewhere they are appended to a log, and
// slots without news are left out. If there are more than maxSlots slots, all slots are left out.
func lines(p *swarmv1.ServiceProgress, terminal bool, maxSlots int) []string {
	overall := fmt.Sprintf("overall progress: %d out of %d tasks", p.GetRunning(), p.GetDesired())
	if p.GetJob() {
		overall = fmt.Sprintf("job progress: %d out of %d complete", p.GetRunning(), p.GetDesired())
	}
	out := []string{overall}
	if len(p.GetSlots()) <= maxSlots {
		for _, s := range p.GetSlots() {
			if terminal || hasNews(s) {
				out = append(out, slotLine(s))
			}
		}
	}
	if p.GetNote() != "" {
		out = append(out, p.GetNote())
	}
	if p.GetStableIn() != nil {
		if !terminal {
			return append(out, "verify: Waiting to verify that tasks are stable...")
		}
		seconds := int((p.GetStableIn().AsDuration() + time.Second - 1) / time.Second)
		out = append(out, fmt.Sprintf("verify: Waiting %d second%s to verify that tasks are stable...", seconds, term.Plural(seconds)))
	}
	return out
}

// hasNews reports whether a line about the slot belongs in a log: the slot has a task or a reason
// why it has none, and does not still have the task from before the update.
func hasNews(s *swarmv1.SlotProgress) bool {
	return !s.GetOutdated() && (s.GetState() != swarmv1.TaskState_NEW || s.GetDetail() != "")
}

// slotLine returns the line of one slot: "1/3: preparing", or "1/3:" for a slot without a task and
// without a reason why it has none.
func slotLine(s *swarmv1.SlotProgress) string {
	line := s.GetLabel() + ":"
	if s.GetState() != swarmv1.TaskState_NEW {
		line += " " + term.EnumWord(s.GetState())
	}
	if s.GetOutdated() {
		line += " (old)"
	}
	if s.GetDetail() != "" {
		line += " " + s.GetDetail()
	}
	return line
}
