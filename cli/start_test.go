package cli_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"swarm/cli"
)

func TestInit_StartsTheLocalDaemon(t *testing.T) {
	line := "Started the swarm daemon (process 7, log /l); `swarm daemon` runs it in the foreground.\n"
	for _, tc := range []struct {
		args    string
		env     map[string]string
		answers bool
		asked   bool
	}{
		{args: "init", asked: true},
		{args: "init", answers: true, asked: true},
		{args: "-H unix:///run/swarm/swarm.sock init"},
		{args: "init", env: map[string]string{"SWARM_HOST": "/x.sock"}},
		{args: "init --gossip-port 70000"},
		{args: "node ls"},
	} {
		asked := ""
		start := func(_ context.Context, socket string) (*cli.StartedDaemon, error) {
			asked = socket
			if tc.answers {
				return nil, nil
			}
			return &cli.StartedDaemon{PID: 7, Log: "/l"}, nil
		}
		got := run{server: &fakeServer{}, env: tc.env, start: start}.run(t, strings.Fields(tc.args)...)
		if (asked == "/run/swarm/swarm.sock") != tc.asked {
			t.Errorf("%+v: asked for a daemon at %q", tc, asked)
		}
		if said := strings.Contains(got.errOut, line); said != (tc.asked && !tc.answers) {
			t.Errorf("%+v: got %+v", tc, got)
		}
	}
	dies := func(context.Context, string) (*cli.StartedDaemon, error) { return nil, errors.New("it ended") }
	refused(t, "dies", run{server: &fakeServer{}, start: dies}.run(t, "init"), "Error: it ended")
}
