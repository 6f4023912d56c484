package usage_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/spf13/cobra"

	"swarm/cli/usage"
)

func TestArgs(t *testing.T) {
	c := &cobra.Command{Use: "rm NAME"}
	for _, tc := range []struct {
		name  string
		check cobra.PositionalArgs
		args  []string
		want  string // of the error; "" for none
	}{
		{"exact", usage.ExactArgs(1), []string{"a"}, ""},
		{"exact", usage.ExactArgs(1), nil, "'rm' takes exactly 1 argument, got 0: usage is rm NAME"},
		{"exact", usage.ExactArgs(2), []string{"a"}, "'rm' takes exactly 2 arguments, got 1: usage is rm NAME"},
		{"min", usage.MinArgs(1), []string{"a", "b"}, ""},
		{"min", usage.MinArgs(1), nil, "'rm' takes at least 1 argument, got 0: usage is rm NAME"},
		{"max", usage.MaxArgs(1), nil, ""},
		{"max", usage.MaxArgs(1), []string{"a", "b"}, "'rm' takes at most 1 argument, got 2: usage is rm NAME"},
		{"none", usage.NoArgs, nil, ""},
		{"none", usage.NoArgs, []string{"a"}, "'rm' takes no arguments, got 1: usage is rm NAME"},
	} {
		got := ""
		if err := tc.check(c, tc.args); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%s with %q: got %q, want %q", tc.name, tc.args, got, tc.want)
		}
	}
}

func TestExitCode(t *testing.T) {
	plain := errors.New("no")
	for _, tc := range []struct {
		err  error
		code int
	}{
		{plain, 1},
		{usage.WithCode(plain, 125), 125},
		{fmt.Errorf("exec: %w", usage.WithCode(plain, 125)), 125},
	} {
		code, err := usage.ExitCode(tc.err)
		if code != tc.code || err != plain {
			t.Errorf("%v: got %d and %v, want %d and %v", tc.err, code, err, tc.code, plain)
		}
	}
}

func TestReason(t *testing.T) {
	for text, want := range map[string]string{
		"open /a: no such file": "no such file", `"quoted"`: "quoted", `dial: "refused"`: "refused", "plain": "plain",
	} {
		if got := usage.Reason(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
