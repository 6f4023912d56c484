package command_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"swarm/cli/command"
)

// Every reference is tried, and an error that several references have is reported once.
func TestOnEach(t *testing.T) {
	d := &command.Deps{}
	var tried []string
	err := d.OnEach([]string{"a", "b", "c", "d"}, func(ref string) error {
		tried = append(tried, ref)
		switch ref {
		case "a":
			return fmt.Errorf("service a:\nnot found")
		case "c", "d":
			return errors.New("no leader")
		}
		return nil
	})
	if want := []string{"a", "b", "c", "d"}; !slices.Equal(tried, want) {
		t.Errorf("tried %q, want %q", tried, want)
	}
	if want := "service a:; not found\nno leader"; err == nil || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if err := d.OnEach([]string{"a"}, func(string) error { return nil }); err != nil {
		t.Errorf("no errors: got %v", err)
	}
}

func TestConfirm(t *testing.T) {
	for answer, want := range map[string]bool{"y\n": true, " YES \n": true, "y": true, "n\n": false, "\n": false, "": false, "yeah\n": false} {
		var question bytes.Buffer
		d := &command.Deps{In: strings.NewReader(answer), Err: &question}
		if got := d.Confirm(); got != want || !strings.HasSuffix(question.String(), "[y/N] ") {
			t.Errorf("%q after %q: got %v, want %v", answer, question.String(), got, want)
		}
	}
}

func TestParseHost(t *testing.T) {
	for text, want := range map[string]string{
		"unix:///run/a.sock": "unix:///run/a.sock", "/run/a.sock": "unix:///run/a.sock", "host": "tcp://host:2377", "tcp://host:1": "tcp://host:1",
		"[::1]": "tcp://[::1]:2377", "::1": "tcp://[::1]:2377", "[::1]:5": "tcp://[::1]:5",
		"unix://a": "", "tcp://h/x": "", ":1": "", "h:0": "", "h:70000": "", "": "",
	} {
		got, err := command.ParseHost(text)
		if err == nil && got.String() != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %s, %v, want %q", text, got, err, want)
		}
	}
}
