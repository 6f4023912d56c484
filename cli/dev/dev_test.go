package dev_test

import (
	"strings"
	"testing"

	"swarm/cli/clitest"
)

func TestDev(t *testing.T) {
	for _, tc := range []struct{ line, want string }{
		{"dev up --nodes 3 --managers 1 --daemon-args --log-level=debug --subnet 10.1.0.0/24", `up "" 3 1 [--log-level=debug] 10.1.0.0/24`},
		{"dev --name x down", `down "x"`},
		{"dev down --name x", `down "x"`},
		{"dev shell node1 ps -ef", `shell "" node1 ["ps" "-ef"]`},
		{"dev kill node1 node2", `poweroff "" node1; poweroff "" node2`},
		{"dev kill --daemon node1", `kill "" node1`},
		{"dev stop node1", `stop "" node1`},
		{"dev start node1", `start "" node1`},
		{"dev cut node1", `cut "" {Hosts:[node1] Port:0 Protocol: OneWay:false}`},
		{"dev cut node1 node2 --port 7946 --protocol udp --one-way", `cut "" {Hosts:[node1 node2] Port:7946 Protocol:udp OneWay:true}`},
		{"dev heal", `heal "" []`},
	} {
		var said []string
		got := clitest.Run{Dev: clitest.Maker{Said: &said}}.Run(t, strings.Fields(tc.line)...)
		if got.Code != 0 || strings.Join(said, "; ") != tc.want {
			t.Errorf("%s: got %q, %+v, want %q", tc.line, said, got, tc.want)
		}
	}
	got := clitest.Run{Dev: clitest.Maker{}}.Run(t, "dev", "ls")
	want := `NAME      ROLE      ADDRESS       STATE           PID       HOST
node1     manager   10.213.0.11   running         42        unix:///run/swarm-dev/dev/node1/swarm.sock
node2     worker    10.213.0.12   off (cut off)             unix:///run/swarm-dev/dev/node2/swarm.sock
`
	if got.Out != want {
		t.Errorf("dev ls: got\n%s\nwant\n%s", got.Out, want)
	}
	// Hosts of several playgrounds have the same names.
	got = clitest.Run{Dev: clitest.Maker{Said: new([]string)}}.Run(t, "dev", "ls")
	if lines := strings.Split(got.Out, "\n"); len(lines) != 6 || !strings.HasPrefix(lines[0], "PLAYGROUND   NAME ") || !strings.HasPrefix(lines[1], "cli          node1 ") || !strings.HasPrefix(lines[3], "dev          node1 ") {
		t.Errorf("dev ls of two playgrounds: got\n%s", got.Out)
	}
}
