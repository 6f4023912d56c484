package printable

import (
	"fmt"
	"io"
	"unicode/utf8"
)

// Writer passes text on with what Line escapes escaped, except line ends and tabs. A carriage return passes as part of a line
// end alone. It is not safe for concurrent use.
type Writer struct {
	w io.Writer
	// held is what the next write completes: the beginning of a character, or a carriage return.
	held []byte
}

// NewWriter returns a Writer that writes to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Unwrap returns the writer below, which takes bytes as they are.
func (w *Writer) Unwrap() io.Writer { return w.w }

// Write writes text. A character whose last bytes have not come yet waits for the next Write or for Flush. It returns the
// error of the writer below; then some of the text may have been written.
func (w *Writer) Write(p []byte) (int, error) {
	text := p
	if len(w.held) > 0 {
		text = append(w.held, p...)
		w.held = nil
	}
	out, rest := escape(text, false)
	w.held = append(w.held, rest...)
	if err := w.put(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush writes what waits for its last bytes: they will not come.
func (w *Writer) Flush() error {
	out, _ := escape(w.held, true)
	w.held = nil
	return w.put(out)
}

func (w *Writer) put(out []byte) error {
	if len(out) == 0 {
		return nil
	}
	_, err := w.w.Write(out)
	return err
}

// escape returns text with escapes, and the rest that is not complete yet; with all, nothing is left.
func escape(text []byte, all bool) (out, rest []byte) {
	out = make([]byte, 0, len(text)+16)
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case !all && !utf8.FullRune(text), !all && r == '\r' && len(text) == 1:
			return out, text
		case r == utf8.RuneError && n == 1:
			out = fmt.Appendf(out, `\x%02x`, text[0])
		case r == '\n' || r == '\t' || r == '\r' && len(text) > 1 && text[1] == '\n' || !hostile(r):
			out = append(out, text[:n]...)
		default:
			out = append(out, escaped(r)...)
		}
		text = text[n:]
	}
	return out, nil
}
