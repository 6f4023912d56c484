package usage

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// NotUTF8 returns the error for a request that cannot be sent because a text in it is not valid
// UTF-8. It names the flag or the argument in words, which are those of the command line. If all
// words are valid, the text comes from a file or from the environment.
func NotUTF8(words []string) error {
	what := "a text from a file or from the environment"
	for i, word := range words {
		if utf8.ValidString(word) {
			continue
		}
		what = fmt.Sprintf("argument %q", word)
		switch name, _, _ := strings.Cut(word, "="); {
		case strings.HasPrefix(word, "--"):
			what = fmt.Sprintf("%s: the value %q", name, strings.TrimPrefix(word, name+"="))
		case strings.HasPrefix(word, "-"):
			what = fmt.Sprintf("%s: the value %q", word[:2], word[2:])
		case i > 0 && strings.HasPrefix(words[i-1], "-") && !strings.Contains(words[i-1], "="):
			what = fmt.Sprintf("%s: the value %q", words[i-1], word)
		}
		break
	}
	return Invalidf("%s is not valid UTF-8: nothing was sent", what)
}
