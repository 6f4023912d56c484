// Package printable makes text that others chose harmless to a terminal. What containers write, what nodes report, and the
// names and labels of objects may hold escape sequences, which set a terminal's title, move its cursor, overwrite what
// stands there, or answer as if the operator had typed. A Writer stands between the whole command line and its output;
// Line is for values that must not break a line of a table or of an error. It is pure: no I/O of its own, no goroutine.
package printable

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// hostile reports whether a terminal acts on a character instead of showing it: a control character (C0, DEL, C1), or a
// mark that has a terminal or an editor show text in another order than it stands (U+061C, U+200E, U+200F, U+202A to U+202E,
// U+2066 to U+2069) or on another line (U+2028, U+2029).
func hostile(r rune) bool {
	return r < ' ' || r == 0x061c || r == 0x200e || r == 0x200f || r == 0x2028 || r == 0x2029 || r >= 0x7f && r <= 0x9f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

// escaped is how a character that is not shown appears. Characters above U+007E have the form that is valid in a JSON string
// as well, so that JSON stays JSON; its encoders escape the others and invalid bytes themselves.
func escaped(r rune) string {
	switch {
	case r == '\n':
		return `\n`
	case r == '\r':
		return `\r`
	case r == '\t':
		return `\t`
	case r < ' ':
		return fmt.Sprintf(`\x%02x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

// Line returns s as one line of text that is safe to print, whatever s holds: control characters, line ends and tabs among
// them, bidirectional marks, and bytes that are not UTF-8 are shown as Go writes them, such as \x1b, \n, \u202e and \xff.
func Line(s string) string {
	clean := func(s string) bool {
		return utf8.ValidString(s) && !strings.ContainsFunc(s, hostile)
	}
	if clean(s) {
		return s
	}
	out := make([]byte, 0, len(s)+16)
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			out = fmt.Appendf(out, `\x%02x`, s[0])
		case hostile(r):
			out = append(out, escaped(r)...)
		default:
			out = append(out, s[:n]...)
		}
		s = s[n:]
	}
	return string(out)
}
