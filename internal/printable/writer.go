package printable

import (
	"fmt"
	"io"
	"unicode/utf8"
)

// Writer escapes the same characters as Line, except line ends and tabs. It keeps a carriage return
// only as part of a line end. It is not safe for concurrent use.
type Writer struct {
	w io.Writer
	// held is the beginning of a character, or a carriage return, that the next Write completes.
	held []byte
}

// NewWriter returns a Writer that writes to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Unwrap returns the underlying writer, which does not escape anything.
func (w *Writer) Unwrap() io.Writer { return w.w }

// Write implements io.Writer. An incomplete character waits for the next Write or for Flush. If the
// underlying writer returns an error, part of the text may have been written.
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

// Flush writes an incomplete character that waits for more bytes.
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

// escape returns the escaped text, and the incomplete rest. If all is true, the rest is empty.
func escape(text []byte, all bool) (out, rest []byte) {
	out = make([]byte, 0, len(text)+16)
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case !all && !utf8.FullRune(text), !all && r == '\r' && len(text) == 1:
			return out, text
		case r == utf8.RuneError && n == 1:
			out = fmt.Appendf(out, `\x%02x`, text[0])
		case r == '\n' || r == '\t' || r == '\r' && len(text) > 1 && text[1] == '\n' || !isUnsafe(r):
			out = append(out, text[:n]...)
		default:
			out = append(out, escaped(r)...)
		}
		text = text[n:]
	}
	return out, nil
}
