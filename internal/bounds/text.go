package bounds

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

const (
	// MaxText is the longest text from a worker, about itself or a task, that is stored, in bytes.
	MaxText = 4 << 10
	// cut ends a text that was shortened.
	cut = "…"
	// replacement replaces a character that is not printable.
	replacement = '\uFFFD'
)

// Text returns s in a form that can be stored and shown in one line: valid UTF-8 of at most limit
// bytes. Line breaks and tabs become spaces. Other characters that are not printable become U+FFFD,
// for example those that control a terminal or the direction of writing. A shortened text ends with
// an ellipsis.
func Text(s string, limit int) string {
	if len(s) <= limit && IsPlain(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		r = printable(r)
		if b.Len()+utf8.RuneLen(r) > limit {
			return shorten(b.String(), limit)
		}
		b.WriteRune(r)
	}
	return b.String()
}

// IsPlain reports whether s has only printable ASCII characters. It is true for the empty string.
func IsPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func printable(r rune) rune {
	switch {
	case r == '\n', r == '\r', r == '\t':
		return ' '
	case !unicode.IsGraphic(r):
		return replacement
	}
	return r
}

// shorten makes room for the ellipsis at the end of s, so that the result has at most limit bytes.
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

// pick calls valid for the items of in, and returns the first limit results that valid accepts.
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
