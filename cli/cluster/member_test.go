package cluster_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"swarm/cli/clitest"
	"swarm/cli/command"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	saysDetached = "Started the swarm daemon (process 7, log /l).\n" +
		"It does not start by itself after a reboot: have your init system run `/usr/local/bin/swarm daemon`.\n"
	saysUnit = "Copied this program to /usr/local/bin/swarm.\nInstalled and started swarm.service; `swarm uninstall` removes it.\n"
)

func TestInit_StartsTheLocalDaemon(t *testing.T) {
	for _, tc := range []struct {
		args    string
		env     map[string]string
		starter clitest.Starter
		asked   []command.StartRequest
		says    string
	}{
		{args: "init", asked: []command.StartRequest{{Socket: "/run/swarm/swarm.sock"}}, says: saysDetached},
		{args: "init", starter: clitest.Starter{Unit: "swarm.service"}, asked: []command.StartRequest{{Socket: "/run/swarm/swarm.sock"}}, says: saysUnit},
		{args: "init --no-systemd", asked: []command.StartRequest{{Socket: "/run/swarm/swarm.sock", NoSystemd: true}}, says: saysDetached},
		{args: "init", starter: clitest.Starter{Answers: true}, asked: []command.StartRequest{{Socket: "/run/swarm/swarm.sock"}}},
		{args: "-H unix:///run/swarm/swarm.sock init"},
		{args: "init", env: map[string]string{"SWARM_HOST": "/x.sock"}},
		{args: "init --gossip-port 70000"},
		{args: "node ls"},
	} {
		got := clitest.Run{Server: &clitest.Server{}, Env: tc.env, Start: tc.starter.Start}.Run(t, strings.Fields(tc.args)...)
		if d := cmp.Diff(tc.asked, tc.starter.Asked); d != "" {
			t.Errorf("%s: asked (-want +got):\n%s", tc.args, d)
		}
		if got.Code == 0 && got.ErrOut != tc.says {
			t.Errorf("%s: said %q, want %q", tc.args, got.ErrOut, tc.says)
		}
	}
	dies := func(context.Context, command.StartRequest) (*command.StartedDaemon, error) {
		return nil, errors.New("it ended")
	}
	clitest.Refused(t, "dies", clitest.Run{Server: &clitest.Server{}, Start: dies}.Run(t, "init"), "Error: it ended")
}

// An init that is refused ends the daemon that it started. An init that made the host a member
// leaves the daemon running, even if the answer came late.
func TestInit_RefusedLeavesNoDaemon(t *testing.T) {
	for _, tc := range []struct {
		state   string
		answers bool
		undone  int
	}{{state: "inactive", undone: 1}, {state: "active"}, {state: "inactive", answers: true}} {
		s := &clitest.Starter{Answers: tc.answers}
		server := &clitest.Server{
			Info:    &swarmv1.InfoResponse{LocalNodeState: tc.state},
			InitErr: status.Error(codes.InvalidArgument, "several addresses"),
		}
		got := clitest.Run{Server: server, Start: s.Start}.Run(t, "init")
		if got.Code != 1 || !strings.HasSuffix(got.ErrOut, "Error: several addresses\n") || s.Undone != tc.undone {
			t.Errorf("%+v: undone %d times, got %+v", tc, s.Undone, got)
		}
	}
}
