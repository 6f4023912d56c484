package flag

import (
	"fmt"
	"strings"
)

// Words is a command line in one string, which is split as a shell splits it. Given tells that the
// flag was given, also if it holds no words.
type Words struct {
	Values []string
	Given  bool
}

// Type implements pflag.Value.
func (w *Words) Type() string { return "command" }

// String quotes the words, so that Set reads the same words again.
func (w *Words) String() string {
	quoted := make([]string, len(w.Values))
	for i, word := range w.Values {
		quoted[i] = word
		if word == "" || strings.ContainsAny(word, " \t\n\\\"'") {
			quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// Set splits a command line.
func (w *Words) Set(s string) (err error) {
	w.Values, err = splitWords(s)
	w.Given = true
	return err
}

// splitWords splits at blanks outside of quotes. A backslash takes the next character literally,
// except in single quotes; in double quotes it does so only before ", \, $ and `.
func splitWords(s string) ([]string, error) {
	var out []string
	var word strings.Builder
	var quote rune
	started, escaped := false, false
	for _, r := range s {
		switch {
		case escaped:
			if quote == '"' && r != '"' && r != '\\' && r != '$' && r != '`' {
				word.WriteByte('\\')
			}
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, started = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, started = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if started {
				out = append(out, word.String())
			}
			word.Reset()
			started = false
		default:
			word.WriteRune(r)
			started = true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("a quote is not closed")
	}
	if started {
		out = append(out, word.String())
	}
	return out, nil
}
