package flag

import (
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/google/shlex"
)

// Words is a command line in one string, which is split as Docker splits it. Given reports whether
// the flag was given, even if its value holds no words.
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
		if word == "" || strings.ContainsAny(word, " \t\r\n\\\"'#") {
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

// splitWords splits at blanks outside of quotes. It uses the same library as Docker: after a
// backslash, except in single quotes, the next character is literal, and an unquoted "#" at the
// start of a word begins a comment, which ends with the line.
func splitWords(s string) ([]string, error) {
	if !utf8.ValidString(s) { // shlex would replace the bytes by U+FFFD.
		return nil, errors.New("the command is not valid UTF-8")
	}
	words, err := shlex.Split(s)
	if err != nil {
		return nil, errors.New("a quote is not closed, or a backslash ends the command")
	}
	return words, nil
}
