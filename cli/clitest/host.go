package clitest

import (
	"context"
	"fmt"

	"swarm/cli/command"
	"swarm/cli/dev"
	"swarm/cli/system"
)

// Maker is a dev.Maker that makes nothing. It appends each call to Said, unless Said is nil.
type Maker struct{ Said *[]string }

func (d Maker) say(format string, args ...any) error {
	if d.Said != nil {
		*d.Said = append(*d.Said, fmt.Sprintf(format, args...))
	}
	return nil
}

func (d Maker) Up(_ context.Context, o dev.Options, progress func(string)) error {
	progress("node1: daemon is up")
	return d.say("up %q %d %d %v %s", o.Name, o.Nodes, o.Managers, o.DaemonArgs, o.Subnet)
}

func (d Maker) Down(_ context.Context, p string) error { return d.say("down %q", p) }

func (d Maker) Playgrounds() ([]string, error) {
	if d.Said == nil {
		return []string{"dev"}, nil
	}
	return []string{"cli", "dev"}, nil
}

func (d Maker) Hosts(string) ([]dev.Host, error) {
	return []dev.Host{
		{Name: "node1", Role: "manager", Address: "10.213.0.11", State: "running", PID: 42, Socket: "/run/swarm-dev/dev/node1/swarm.sock"},
		{Name: "node2", Role: "worker", Address: "10.213.0.12", State: "off", Unplugged: true, Socket: "/run/swarm-dev/dev/node2/swarm.sock"},
	}, nil
}

func (d Maker) Shell(p, host string, argv []string) error {
	return d.say("shell %q %s %q", p, host, argv)
}

func (d Maker) Kill(_ context.Context, p, h string) error { return d.say("kill %q %s", p, h) }

func (d Maker) Stop(_ context.Context, p, h string) error { return d.say("stop %q %s", p, h) }

func (d Maker) PowerOff(_ context.Context, p, h string) error { return d.say("poweroff %q %s", p, h) }

func (d Maker) Start(_ context.Context, p, h string) error { return d.say("start %q %s", p, h) }

func (d Maker) Cut(p string, c dev.Cut) error { return d.say("cut %q %+v", p, c) }

func (d Maker) Heal(p string, hosts []string) error { return d.say("heal %q %v", p, hosts) }

// Findings returns a function for Deps.Diagnose that always returns the same findings, and stores
// its request in asked.
func Findings(asked *system.DoctorRequest, found ...system.Finding) func(context.Context, system.DoctorRequest) ([]system.Finding, error) {
	return func(_ context.Context, r system.DoctorRequest) ([]system.Finding, error) {
		*asked = r
		return found, nil
	}
}

// Installer is a daemon.Installer that changes nothing. Its fields are its answers, but Purged is
// the argument of Uninstall; Purged is nil until Uninstall is called.
type Installer struct {
	Joined  bool
	Removed []string
	Purged  *bool
	Err     error
}

// Install implements daemon.Installer.
func (f *Installer) Install(context.Context) (*command.StartedDaemon, error) {
	return &command.StartedDaemon{Unit: "swarm.service", Program: "/usr/bin/swarm"}, f.Err
}

// Uninstall implements daemon.Installer.
func (f *Installer) Uninstall(_ context.Context, purge bool) ([]string, error) {
	f.Purged = &purge
	return f.Removed, f.Err
}

// Member implements daemon.Installer.
func (f *Installer) Member() bool { return f.Joined }

// Starter is a fake of Deps.StartDaemon. It counts the starts and how many of them were undone.
type Starter struct {
	Asked   []command.StartRequest
	Undone  int
	Answers bool // a daemon runs already
	Unit    string
}

// Start is a cli.Deps.StartDaemon.
func (s *Starter) Start(_ context.Context, r command.StartRequest) (*command.StartedDaemon, error) {
	s.Asked = append(s.Asked, r)
	if s.Answers {
		return nil, nil
	}
	return &command.StartedDaemon{
		PID: 7, Log: "/l", Program: "/usr/local/bin/swarm", Unit: s.Unit, Copied: s.Unit != "",
		Undo: func(context.Context) error {
			s.Undone++
			return nil
		},
	}, nil
}
