package cli_test

import (
	"context"
	"errors"
	"testing"

	"swarm/cli/command"
)

// fakeInstaller does what it is told to have done.
type fakeInstaller struct {
	member  bool
	removed []string
	purged  *bool
	err     error
}

func (f *fakeInstaller) Install(context.Context) (*command.StartedDaemon, error) {
	return &command.StartedDaemon{Unit: "swarm.service", Program: "/usr/bin/swarm"}, f.err
}

func (f *fakeInstaller) Uninstall(_ context.Context, purge bool) ([]string, error) {
	f.purged = &purge
	return f.removed, f.err
}

func (f *fakeInstaller) Member() bool { return f.member }

func prints(t *testing.T, line string, got, want result) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %+v, want %+v", line, got, want)
	}
}

func TestInstall(t *testing.T) {
	got := run{installer: &fakeInstaller{}}.run(t, "install")
	prints(t, "install", got, result{out: "Installed /usr/bin/swarm and started swarm.service.\n"})
	refused(t, "install", run{installer: &fakeInstaller{err: errors.New("read-only file system")}}.run(t, "install"), "Error: read-only file system")
}

func TestUninstall(t *testing.T) {
	i := &fakeInstaller{removed: []string{"/a", "/b"}}
	prints(t, "uninstall", run{installer: i}.run(t, "uninstall", "--purge"), result{out: "/a\n/b\n"})
	if i.purged == nil || !*i.purged {
		t.Error("the state was not purged")
	}
	prints(t, "nothing", run{installer: &fakeInstaller{}}.run(t, "uninstall"), result{errOut: "Nothing of swarm was installed on this host.\n"})

	member := &fakeInstaller{member: true}
	refused(t, "member", run{installer: member}.run(t, "uninstall"),
		"Error: this host is part of a swarm: run `swarm leave` first, or use --force to leave it and uninstall")
	if member.purged != nil {
		t.Error("uninstalled although the host is a member")
	}
	server := &fakeServer{}
	prints(t, "force", run{installer: member, server: server, start: (&starter{answers: true}).start}.run(t, "uninstall", "--force"),
		result{errOut: "Nothing of swarm was installed on this host.\n"})
	if member.purged == nil || *member.purged {
		t.Error("not uninstalled, or purged")
	}
	refused(t, "elsewhere", run{installer: member}.run(t, "-H", "tcp://x", "uninstall"),
		"Error: `swarm uninstall` is for the host it runs on: leave -H and SWARM_HOST out")
}
