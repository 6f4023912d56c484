package usage_test

import (
	"testing"

	"swarm/cli/usage"
)

func TestNotUTF8(t *testing.T) {
	for want, words := range map[string][]string{
		`--label: the value "k=\xff" is not valid UTF-8: nothing was sent`:                {"service", "create", "--label", "k=\xff", "web"},
		`--env: the value "A=\xff" is not valid UTF-8: nothing was sent`:                  {"service", "create", "--env=A=\xff", "web"},
		`-l: the value "k=\xff" is not valid UTF-8: nothing was sent`:                     {"service", "create", "-lk=\xff", "web"},
		`argument "w\xff" is not valid UTF-8: nothing was sent`:                           {"service", "create", "--env=A=1", "w\xff"},
		"a text from a file or from the environment is not valid UTF-8: nothing was sent": {"service", "create", "--env-file", "x"},
	} {
		if got := usage.NotUTF8(words).Error(); got != want {
			t.Errorf("%q: got %q, want %q", words, got, want)
		}
	}
}
