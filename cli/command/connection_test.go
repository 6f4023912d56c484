package command_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"swarm/cli/clitest"
	"swarm/cli/command"
)

func TestHost(t *testing.T) {
	for _, tc := range []struct {
		args string
		env  map[string]string
		want command.Target
	}{
		{"node ls", nil, command.Target{Network: "unix", Address: "/run/swarm/swarm.sock"}},
		{"-H unix:///x/y.sock node ls", nil, command.Target{Network: "unix", Address: "/x/y.sock"}},
		{"node ls -H /x/y.sock", nil, command.Target{Network: "unix", Address: "/x/y.sock"}},
		{"node ls", map[string]string{"SWARM_HOST": "tcp://m1"}, command.Target{Network: "tcp", Address: "m1:2377"}},
		{"--host m1:99 node --credential c.pem ls", map[string]string{"SWARM_HOST": "tcp://m2"}, command.Target{Network: "tcp", Address: "m1:99", Credential: "c.pem"}},
		{"-H m1 node ls", map[string]string{"HOME": "/home/u"}, command.Target{Network: "tcp", Address: "m1:2377", Credential: "/home/u/.config/swarm/credential.pem"}},
		{"-H m1 node ls", map[string]string{"SWARM_CREDENTIAL": "/c"}, command.Target{Network: "tcp", Address: "m1:2377", Credential: "/c"}},
		{"-H [fd00::1] service create --host a:10.0.0.1 --detach nginx", nil, command.Target{Network: "tcp", Address: "[fd00::1]:2377"}},
	} {
		var target command.Target
		got := clitest.Run{Server: &clitest.Server{}, Env: tc.env, Target: &target}.Run(t, strings.Fields(tc.args)...)
		if got.Code != 0 || target != tc.want {
			t.Errorf("%s: got %+v, %+v, want %+v", tc.args, target, got, tc.want)
		}
	}
	for host, want := range map[string]string{
		"unix://x": "must be absolute", "http://x/y": "use unix:///PATH or tcp://HOST[:PORT]", "m1:70000": "is not a number", "fd00::1:x": "brackets", ":2377": "the host is missing",
	} {
		clitest.Refused(t, host, clitest.Run{Server: &clitest.Server{}}.Run(t, "-H", host, "node", "ls"), want)
	}
}

func TestUnreachable(t *testing.T) {
	got := clitest.Run{}.Run(t, "node", "ls")
	want := "Error: cannot reach the swarm daemon at unix:///run/swarm/swarm.sock: is it running? (`swarm init` and `swarm join` start it, `swarm daemon` runs it in the foreground)\n"
	if got.ErrOut != want || got.Code != 1 {
		t.Errorf("got %+v, want %q", got, want)
	}
}

// A host cannot be reached by TCP. The message names the daemon once, and asks one question.
func TestUnreachable_ByTCP(t *testing.T) {
	for _, why := range []string{
		"connection refused: is swarm running there?",
		"no route to it: are the two hosts on the same network?",
		"no answer: is the host up, and does a firewall let the port through?",
		"its name cannot be looked up (no such host): check it, or give an IP address",
	} {
		s := &clitest.Server{InitErr: status.Error(codes.Unavailable, "10.0.0.9:9999: "+why)}
		got := clitest.Run{Server: s}.Run(t, "-H", "tcp://10.0.0.9:9999", "init")
		want := "Error: cannot reach the swarm daemon at tcp://10.0.0.9:9999: " + why + "\n"
		if got.ErrOut != want || got.Code != 1 {
			t.Errorf("got %+v, want %q", got, want)
		}
	}
	// What the daemon says of another host.
	for _, other := range []string{
		"exec in task t1: 10.0.0.3:2377: connection refused: is swarm running there?",
		"exec in task t1: 10.0.0.3:2377: no answer: is the host up, and does a firewall let the port through?",
		"join through nowhere:2377: its name cannot be looked up (server misbehaving): check it, or give an IP address",
	} {
		got := clitest.Run{Server: &clitest.Server{InitErr: status.Error(codes.Unavailable, other)}}.Run(t, "init")
		if got.ErrOut != "Error: "+other+"\n" {
			t.Errorf("got %+v, want %q", got, other)
		}
	}
}

// A daemon that accepts the connection and does not answer runs, but hangs.
func TestUnreachable_Silent(t *testing.T) {
	s := &clitest.Server{InitErr: status.Error(codes.Unavailable, "raw-read unix @->/run/swarm/swarm.sock: use of closed network connection")}
	got := clitest.Run{Server: s}.Run(t, "init")
	want := "Error: the swarm daemon at unix:///run/swarm/swarm.sock does not answer: it hangs, or its host is overloaded; see its log, or restart it\n"
	if got.ErrOut != want || got.Code != 1 {
		t.Errorf("got %+v, want %q", got, want)
	}
}

// A daemon that ends, or closes the connection, before it answers.
func TestUnreachable_Closed(t *testing.T) {
	for text, why := range map[string]string{
		"connection reset by peer": "connection reset by peer",
		"read unix @->/run/swarm/swarm.sock: read: connection reset by peer":                                         "connection reset by peer",
		"transport: failed to write client preface: write unix @->/run/swarm/swarm.sock: write: broken pipe":         "broken pipe",
		"transport: failed to write initial settings frame: write tcp 10.0.0.1:5->10.0.0.9:2377: write: broken pipe": "broken pipe",
		"EOF": "EOF",
	} {
		got := clitest.Run{Server: &clitest.Server{InitErr: status.Error(codes.Unavailable, text)}}.Run(t, "init")
		want := "Error: the swarm daemon at unix:///run/swarm/swarm.sock closed the connection before it answered (" + why +
			"): it has ended, or it has too many connections; see its log, and try again when it runs\n"
		if got.ErrOut != want || got.Code != 1 {
			t.Errorf("%s: got %+v, want %q", text, got, want)
		}
	}
	// What the daemon says of another host.
	other := "exec in task t1: read tcp 10.0.0.1:5->10.0.0.3:2377: read: connection reset by peer"
	got := clitest.Run{Server: &clitest.Server{InitErr: status.Error(codes.Unavailable, other)}}.Run(t, "init")
	if got.ErrOut != "Error: "+other+"\n" {
		t.Errorf("got %+v, want %q", got, other)
	}
}
