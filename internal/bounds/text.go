package bounds

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

const (
	// MaxText is the longest text that is stored of what a worker says of itself or of a task, in bytes.
	MaxText = 4 << 10
	// cut marks a text that was longer.
	cut = "…"
	// replacement stands for what is no printable character.
	replacement = '\uFFFD'
)

// Text returns s as it may be stored and shown in one line: valid UTF-8 of at most limit bytes. Line breaks and tabs become
// spaces. Every other character that is not printable, such as one that controls a terminal or the direction of writing,
// becomes U+FFFD. A text that is cut ends with an ellipsis.
func Text(s string, limit int) string {
	if len(s) <= limit && IsPlain(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		r = shown(r)
		if b.Len()+utf8.RuneLen(r) > limit {
			return shorten(b.String(), limit)
		}
		b.WriteRune(r)
	}
	return b.String()
}

// IsPlain reports whether s consists of printable ASCII characters. The empty string does.
func IsPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func shown(r rune) rune {
	switch {
	case r == '\n', r == '\r', r == '\t':
		return ' '
	case !unicode.IsGraphic(r):
		return replacement
	}
	return r
}

// shorten makes room for the ellipsis at the end of a text that fills the limit.
func shorten(s string, limit int) string {
	if limit < len(cut) {
		return ""
	}
	for len(s) > limit-len(cut) {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s + cut
}

// pick returns what valid makes of the first limit items that it accepts.
func pick[T any](in []T, limit int, valid func(T) (T, bool)) (out []T) {
	for _, item := range in {
		if len(out) == limit {
			break
		}
		if item, ok := valid(item); ok {
			out = append(out, item)
		}
	}
	return out
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
