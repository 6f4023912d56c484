package term

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"swarm/internal/printable"
)

// MaxLines is the number of objects up to which each has a line of progress of its own.
const MaxLines = 20

// View shows progress. On a terminal it draws the lines again in their place; the lines of the last
// Draw stay. Elsewhere it prints each line that has changed.
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

// Height returns the number of lines of the terminal, or 0 if the output is not one.
func (v *View) Height() int {
	if v.tty == nil {
		return 0
	}
	_, height, err := v.tty.Size()
	if err != nil {
		return 0
	}
	return height
}

// Draw shows lines in the place of the lines that were drawn before. A quiet view shows nothing.
func (v *View) Draw(lines []string) {
	if v.quiet {
		return
	}
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
		fmt.Fprintf(&b, "\x1b[%dA", v.drawn) // not term.Printf: moves the cursor
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
