package term

import (
	"fmt"
	"io"

	"swarm/internal/printable"
)

// The streams of verbs are printable.Writers, which escape control characters, so that text from
// containers and other users cannot control the terminal. Unescaped and Content go around the
// escaping, for the bytes of containers and for the sequences that draw progress.

// Printf writes formatted text. Strings, errors and Stringers among args are escaped so that each
// stays on its line: a name or a message cannot forge a line or a row of a table.
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

// Unescaped returns the stream below an escaped one, which writes bytes unchanged.
func Unescaped(w io.Writer) io.Writer {
	if p, ok := w.(*printable.Writer); ok {
		return p.Unwrap()
	}
	return w
}

// Content returns the stream for the output of containers. Bytes to a terminal are escaped, unless
// raw is set. Other bytes are written unchanged.
func Content(w io.Writer, raw bool) io.Writer {
	if raw || TerminalOf(w) == nil {
		return Unescaped(w)
	}
	return w
}

// Flush writes the bytes that escaped streams still hold: the beginning of a character whose other
// bytes have not come.
func Flush(streams ...io.Writer) {
	for _, w := range streams {
		if p, ok := w.(*printable.Writer); ok {
			_ = p.Flush() // As with all printing, an error means that nobody reads.
		}
	}
}

// PrintList prints heading as it is, and a line for each item.
func PrintList(w io.Writer, heading string, items []string) {
	fmt.Fprint(w, heading) // not term.Printf: the heading is ours
	for _, i := range items {
		Printf(w, "%s\n", i)
	}
}
