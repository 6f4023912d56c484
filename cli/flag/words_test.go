package flag_test

import (
	"slices"
	"strings"
	"testing"

	"swarm/cli/flag"
)

func TestWords(t *testing.T) {
	for line, want := range map[string][]string{
		`sh -c 'a  b'`:    {"sh", "-c", "a  b"},
		`"a\"b" c\ d ''`:  {`a"b`, "c d", ""},
		`"a\b" 'a\b' a\b`: {"ab", `a\b`, "ab"}, // unlike a shell, which keeps the first backslash
		"a #b c\nd e#f":   {"a", "d", "e#f"},
		`\#a '#b'`:        {"#a", "#b"},
		"":                {},
	} {
		var w flag.Words
		if err := w.Set(line); err != nil || !w.Given || !slices.Equal(w.Values, want) {
			t.Errorf("%q: got %q, %v, want %q", line, w.Values, err, want)
		}
	}
	for line, want := range map[string]string{
		`a 'b`: "quote is not closed", `a "b`: "quote is not closed", `a\`: "a backslash ends", "a\xffb": "not valid UTF-8",
	} {
		var w flag.Words
		if err := w.Set(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %q, %v, want an error with %q", line, w.Values, err, want)
		}
	}
}

// A list of KEY=VALUE is one record of CSV. Text behind it must not get lost.
func TestFields_SeveralLines(t *testing.T) {
	parsers := map[string]func(string) error{
		"port":    func(s string) error { _, err := flag.ParsePorts(s); return err },
		"mount":   func(s string) error { _, err := flag.ParseMount(s); return err },
		"network": func(s string) error { _, err := flag.ParseNetwork(s); return err },
		"secret":  func(s string) error { _, err := flag.ParseSecret(s); return err },
	}
	for name, value := range map[string]string{
		"port": "target=80\nmode=host", "mount": "target=/a\nreadonly", "network": "name=a\nalias=b", "secret": "source=a,target=b\nmode=0400",
	} {
		if err := parsers[name](value); err == nil || !strings.Contains(err.Error(), "more than one line") {
			t.Errorf("%s %q: got %v, want it refused", name, value, err)
		}
	}
	if m, err := flag.ParseMount("target=/a,\"source=/b\nc\",type=bind\n"); err != nil || m.Source != "/b\nc" {
		t.Errorf("a quoted line break: got %v, %v", m, err)
	}
}
