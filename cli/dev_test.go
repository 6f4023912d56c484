package cli_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"swarm/cli/dev"
)

// fakeDev writes down what it is told.
type fakeDev struct{ said *[]string }

func (d fakeDev) say(format string, args ...any) error {
	if d.said != nil {
		*d.said = append(*d.said, fmt.Sprintf(format, args...))
	}
	return nil
}

func (d fakeDev) Up(_ context.Context, o dev.Options, progress func(string)) error {
	progress("node1: daemon is up")
	return d.say("up %q %d %d %v %s", o.Name, o.Nodes, o.Managers, o.DaemonArgs, o.Subnet)
}

func (d fakeDev) Down(_ context.Context, p string) error { return d.say("down %q", p) }

func (d fakeDev) Playgrounds() ([]string, error) {
	if d.said == nil {
		return []string{"dev"}, nil
	}
	return []string{"cli", "dev"}, nil
}

func (d fakeDev) Hosts(string) ([]dev.Host, error) {
	return []dev.Host{
		{Name: "node1", Role: "manager", Address: "10.213.0.11", State: "running", PID: 42, Socket: "/run/swarm-dev/dev/node1/swarm.sock"},
		{Name: "node2", Role: "worker", Address: "10.213.0.12", State: "off", Unplugged: true, Socket: "/run/swarm-dev/dev/node2/swarm.sock"},
	}, nil
}

func (d fakeDev) Shell(p, host string, argv []string) error {
	return d.say("shell %q %s %q", p, host, argv)
}

func (d fakeDev) Kill(_ context.Context, p, h string) error { return d.say("kill %q %s", p, h) }

func (d fakeDev) Stop(_ context.Context, p, h string) error { return d.say("stop %q %s", p, h) }

func (d fakeDev) PowerOff(_ context.Context, p, h string) error { return d.say("poweroff %q %s", p, h) }

func (d fakeDev) Start(_ context.Context, p, h string) error { return d.say("start %q %s", p, h) }

func (d fakeDev) Cut(p string, c dev.Cut) error { return d.say("cut %q %+v", p, c) }

func (d fakeDev) Heal(p string, hosts []string) error { return d.say("heal %q %v", p, hosts) }

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
		got := run{dev: fakeDev{&said}}.run(t, strings.Fields(tc.line)...)
		if got.code != 0 || strings.Join(said, "; ") != tc.want {
			t.Errorf("%s: got %q, %+v, want %q", tc.line, said, got, tc.want)
		}
	}
	got := run{dev: fakeDev{}}.run(t, "dev", "ls")
	want := `NAME      ROLE      ADDRESS       STATE           PID       HOST
node1     manager   10.213.0.11   running         42        unix:///run/swarm-dev/dev/node1/swarm.sock
node2     worker    10.213.0.12   off (cut off)             unix:///run/swarm-dev/dev/node2/swarm.sock
`
	if got.out != want {
		t.Errorf("dev ls: got\n%s\nwant\n%s", got.out, want)
	}
	// Hosts of several playgrounds have the same names.
	got = run{dev: fakeDev{new([]string)}}.run(t, "dev", "ls")
	if lines := strings.Split(got.out, "\n"); len(lines) != 6 || !strings.HasPrefix(lines[0], "PLAYGROUND   NAME ") || !strings.HasPrefix(lines[1], "cli          node1 ") || !strings.HasPrefix(lines[3], "dev          node1 ") {
		t.Errorf("dev ls of two playgrounds: got\n%s", got.out)
	}
}
