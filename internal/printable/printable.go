// Package printable makes untrusted text safe to print on a terminal. The output of containers, the
// reports of nodes, and the names and labels of objects may contain escape sequences. Such
// sequences set the title of a terminal, move its cursor, overwrite text, or send answers as if the
// operator had typed them. The command line writes all its output through a Writer. Line is for
// values that must not break a line of a table or of an error. The package is pure and runs no
// goroutine.
package printable

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// isUnsafe reports whether a terminal interprets a character instead of showing it: a control
// character (C0, DEL, C1), or a mark that makes a terminal or an editor show text in another order
// (U+061C, U+200E, U+200F, U+202A to U+202E, U+2066 to U+2069) or on another line (U+2028, U+2029).
func isUnsafe(r rune) bool {
	return r < ' ' || r == 0x061c || r == 0x200e || r == 0x200f || r == 0x2028 || r == 0x2029 || r >= 0x7f && r <= 0x9f || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}

// escaped returns the visible form of an unsafe character. Characters above U+007E have a form that
// is valid in a JSON string, so JSON stays valid. JSON encoders escape the other characters and
// invalid bytes themselves.
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

// Line returns s as one line that is safe to print. Control characters, line ends, tabs,
// bidirectional marks and bytes that are not UTF-8 are shown as Go writes them, such as \x1b, \n,
// \u202e and \xff.
func Line(s string) string {
	clean := func(s string) bool {
		return utf8.ValidString(s) && !strings.ContainsFunc(s, isUnsafe)
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
		case isUnsafe(r):
			out = append(out, escaped(r)...)
		default:
			out = append(out, s[:n]...)
		}
		s = s[n:]
	}
	return string(out)
}
