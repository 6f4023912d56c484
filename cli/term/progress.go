package term

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"swarm/internal/printable"
)

// Progress is how far a service is on its way to what was asked for.
type Progress struct {
	Name             string
	Running, Desired int
	// Ended tasks completed and are not restarted, because the restart policy does not ask for it.
	Ended int
	// Stopping tasks still run although they are to end.
	Stopping int
	Job      bool
	Tasks    []TaskProgress
	Note     string
	// Verify is how long the tasks still have to stay as they are; only when verifying.
	Verify    time.Duration
	Verifying bool
}

// TaskProgress is the state of one task. Label is its number or node, Old tells that it has not
// been updated yet.
type TaskProgress struct {
	Label, State, Detail string
	Old                  bool
}

// MaxTaskLines is the number of tasks up to which each has a line of its own.
const MaxTaskLines = 20

// View shows progress: redrawn in place on a terminal, elsewhere a line for each change.
type View struct {
	w     io.Writer
	quiet bool
	tty   Terminal
	drawn int
	last  []string
}

// NewView returns a view that prints to w, and nothing if quiet is set.
func NewView(w io.Writer, quiet bool) *View { return &View{w: w, quiet: quiet, tty: TerminalOf(w)} }

// OnTerminal reports whether the progress is redrawn in place.
func (v *View) OnTerminal() bool { return v.tty != nil }

// Show draws the progress of a service.
func (v *View) Show(p Progress) {
	if v.quiet || p.Name == "" {
		return
	}
	slots := MaxTaskLines
	if v.tty != nil {
		if _, height, err := v.tty.Size(); err == nil && height > 0 { // What scrolls out of the screen cannot be drawn anew.
			slots = min(slots, height-len(ProgressLines(p, true, 0))-1)
		}
	}
	v.Draw(ProgressLines(p, v.tty != nil, slots))
}

// Done draws the last progress of a service that has converged, and says so.
func (v *View) Done(p Progress) {
	p.Verifying = false
	v.Show(p)
	if !v.quiet && p.Name != "" {
		Printf(v.w, "verify: Service %s converged%s\n", p.Name, p.Rest())
	}
}

// Rest returns what is to be known of a service that has converged although not all of its tasks
// run, or too many do; "" if there is nothing.
func (p Progress) Rest() string {
	be := func(n int) string {
		if n == 1 {
			return "is"
		}
		return "are"
	}
	words := ""
	if p.Ended > 0 {
		words = fmt.Sprintf(": %d of %d tasks ended with exit code 0 and %s not restarted", p.Ended, p.Desired, be(p.Ended))
	}
	if p.Stopping > 0 {
		words += fmt.Sprintf("; %d task%s %s still being stopped", p.Stopping, Plural(p.Stopping), be(p.Stopping))
	}
	return words
}

// End leaves the lines where they are: what is drawn next begins below them.
func (v *View) End() { v.drawn = 0 }

// Draw shows lines in the place of the lines before.
func (v *View) Draw(lines []string) {
	if v.tty == nil {
		for _, line := range lines {
			if !slices.Contains(v.last, line) {
				Printf(v.w, "%s\n", line)
			}
		}
		v.last = lines
		return
	}
	width, _, err := v.tty.Size()
	if err != nil || width <= 0 {
		width = DefaultWidth
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
	_, _ = io.WriteString(Unescaped(v.w), b.String())
}

// ProgressLines returns the progress in Docker's words. With countdown, which is for terminals, it
// names the seconds left, and tasks that were not touched yet. If there are more tasks than slots,
// no task has a line of its own.
func ProgressLines(p Progress, countdown bool, slots int) []string {
	overall := fmt.Sprintf("overall progress: %d out of %d tasks", p.Running, p.Desired)
	if p.Job {
		overall = fmt.Sprintf("job progress: %d out of %d complete", p.Running, p.Desired)
	}
	lines := []string{overall}
	if len(p.Tasks) <= slots {
		for _, s := range p.Tasks {
			if !countdown && (s.Old || s.State == "" && s.Detail == "") {
				continue
			}
			line := s.Label + ": " + s.State
			if s.Detail != "" {
				line = strings.TrimRight(line, " ") + " " + s.Detail
			}
			lines = append(lines, strings.TrimRight(line, " "))
		}
	}
	if p.Note != "" {
		lines = append(lines, p.Note)
	}
	if p.Verifying {
		left := p.Verify
		if !countdown {
			return append(lines, "verify: Waiting to verify that tasks are stable...")
		}
		seconds := int((left + time.Second - 1) / time.Second)
		lines = append(lines, fmt.Sprintf("verify: Waiting %d second%s to verify that tasks are stable...", seconds, Plural(seconds)))
	}
	return lines
}
