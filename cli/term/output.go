package term

import (
	"fmt"
	"io"

	"swarm/internal/printable"
)

// Everything that verbs print goes through Deps.Out and Deps.Err, which New wraps in printable.Writers, so that a terminal
// acts on nothing that others wrote. Below are the ways past it: for bytes that are no text of ours, and for the sequences by
// which progress is drawn.

// Printf writes formatted text. Its arguments stay on their line: names and messages of others can neither forge lines nor
// rows of a table.
func Printf(w io.Writer, text string, args ...any) error {
	safe := make([]any, len(args))
	for i, arg := range args {
		switch v := arg.(type) {
		case string:
			safe[i] = printable.Line(v)
		case error, fmt.Stringer:
			safe[i] = printable.Line(fmt.Sprint(v))
		default:
			safe[i] = arg
		}
	}
	_, err := fmt.Fprintf(w, text, safe...)
	return err
}

// Unescaped is the stream below the verbs' output. It takes bytes as they are.
func Unescaped(w io.Writer) io.Writer {
	if p, ok := w.(*printable.Writer); ok {
		return p.Unwrap()
	}
	return w
}

// Content is where the output of containers goes: escaped on a terminal unless raw is asked for, otherwise as it is.
func Content(w io.Writer, raw bool) io.Writer {
	if raw || TerminalOf(w) == nil {
		return Unescaped(w)
	}
	return w
}

// Flush writes the beginning of a character that nothing completes any more.
func Flush(streams ...io.Writer) {
	for _, w := range streams {
		if p, ok := w.(*printable.Writer); ok {
			_ = p.Flush() // As all printing, it is lost when nobody reads.
		}
	}
}

// PrintList prints a heading, which ends its line itself, and items below it.
func PrintList(w io.Writer, heading string, items []string) {
	fmt.Fprint(w, heading) // printf: the heading is ours
	for _, i := range items {
		Printf(w, "%s\n", i)
	}
}
