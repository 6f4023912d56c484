package cli_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"swarm/cli/command"
	swarmv1 "swarm/proto/swarm/v1"
)

// starter starts daemons that are only counted.
type starter struct {
	asked   []command.StartRequest
	undone  int
	answers bool // one runs already
	unit    string
}

func (s *starter) start(_ context.Context, r command.StartRequest) (*command.StartedDaemon, error) {
	s.asked = append(s.asked, r)
	if s.answers {
		return nil, nil
	}
	return &command.StartedDaemon{
		PID: 7, Log: "/l", Program: "/usr/local/bin/swarm", Unit: s.unit, Copied: s.unit != "",
		Undo: func(context.Context) error {
			s.undone++
			return nil
		},
	}, nil
}

const (
	saysDetached = "Started the swarm daemon (process 7, log /l).\n" +
		"It does not start by itself after a reboot: have your init system run `/usr/local/bin/swarm daemon`.\n"
	saysUnit = "Copied this program to /usr/local/bin/swarm.\nInstalled and started swarm.service; `swarm uninstall` removes it.\n"
)

func TestInit_StartsTheLocalDaemon(t *testing.T) {
	for _, tc := range []struct {
		args    string
		env     map[string]string
		starter starter
		asked   []command.StartRequest
		says    string
	}{
		{args: "init", asked: []command.StartRequest{{Socket: "/run/swarm/swarm.sock"}}, says: saysDetached},
		{args: "init", starter: starter{unit: "swarm.service"}, asked: []command.StartRequest{{Socket: "/run/swarm/swarm.sock"}}, says: saysUnit},
		{args: "init --no-systemd", asked: []command.StartRequest{{Socket: "/run/swarm/swarm.sock", NoSystemd: true}}, says: saysDetached},
		{args: "init", starter: starter{answers: true}, asked: []command.StartRequest{{Socket: "/run/swarm/swarm.sock"}}},
		{args: "-H unix:///run/swarm/swarm.sock init"},
		{args: "init", env: map[string]string{"SWARM_HOST": "/x.sock"}},
		{args: "init --gossip-port 70000"},
		{args: "node ls"},
	} {
		got := run{server: &fakeServer{}, env: tc.env, start: tc.starter.start}.run(t, strings.Fields(tc.args)...)
		if d := cmp.Diff(tc.asked, tc.starter.asked); d != "" {
			t.Errorf("%s: asked (-want +got):\n%s", tc.args, d)
		}
		if got.code == 0 && got.errOut != tc.says {
			t.Errorf("%s: said %q, want %q", tc.args, got.errOut, tc.says)
		}
	}
	dies := func(context.Context, command.StartRequest) (*command.StartedDaemon, error) {
		return nil, errors.New("it ended")
	}
	refused(t, "dies", run{server: &fakeServer{}, start: dies}.run(t, "init"), "Error: it ended")
}

// An init that is refused leaves no daemon behind that nobody asked for; one that made a member, however late, does.
func TestInit_RefusedLeavesNoDaemon(t *testing.T) {
	for _, tc := range []struct {
		state   string
		answers bool
		undone  int
	}{{state: "inactive", undone: 1}, {state: "active"}, {state: "inactive", answers: true}} {
		s := &starter{answers: tc.answers}
		server := &fakeServer{
			info:    &swarmv1.InfoResponse{LocalNodeState: tc.state},
			initErr: status.Error(codes.InvalidArgument, "several addresses"),
		}
		got := run{server: server, start: s.start}.run(t, "init")
		if got.code != 1 || !strings.HasSuffix(got.errOut, "Error: several addresses\n") || s.undone != tc.undone {
			t.Errorf("%+v: undone %d times, got %+v", tc, s.undone, got)
		}
	}
}
