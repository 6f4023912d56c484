package daemon_test

import (
	"errors"
	"testing"

	"swarm/cli/clitest"
)

func prints(t *testing.T, line string, got, want clitest.Result) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %+v, want %+v", line, got, want)
	}
}

func TestInstall(t *testing.T) {
	got := clitest.Run{Installer: &clitest.Installer{}}.Run(t, "install")
	prints(t, "install", got, clitest.Result{Out: "Installed /usr/bin/swarm and started swarm.service.\n"})
	clitest.Refused(t, "install", clitest.Run{Installer: &clitest.Installer{Err: errors.New("read-only file system")}}.Run(t, "install"), "Error: read-only file system")
}

func TestUninstall(t *testing.T) {
	i := &clitest.Installer{Removed: []string{"/a", "/b"}}
	prints(t, "uninstall", clitest.Run{Installer: i}.Run(t, "uninstall", "--purge"), clitest.Result{Out: "/a\n/b\n"})
	if i.Purged == nil || !*i.Purged {
		t.Error("the state was not purged")
	}
	prints(t, "nothing", clitest.Run{Installer: &clitest.Installer{}}.Run(t, "uninstall"), clitest.Result{ErrOut: "Nothing of swarm was installed on this host.\n"})

	member := &clitest.Installer{Joined: true}
	clitest.Refused(t, "member", clitest.Run{Installer: member}.Run(t, "uninstall"),
		"Error: this host is part of a swarm: run `swarm leave` first, or use --force to leave it and uninstall")
	if member.Purged != nil {
		t.Error("uninstalled although the host is a member")
	}
	server := &clitest.Server{}
	prints(t, "force", clitest.Run{Installer: member, Server: server, Start: (&clitest.Starter{Answers: true}).Start}.Run(t, "uninstall", "--force"),
		clitest.Result{ErrOut: "Nothing of swarm was installed on this host.\n"})
	if member.Purged == nil || *member.Purged {
		t.Error("not uninstalled, or purged")
	}
	clitest.Refused(t, "elsewhere", clitest.Run{Installer: member}.Run(t, "-H", "tcp://x", "uninstall"),
		"Error: `swarm uninstall` is for the host it runs on: leave -H and SWARM_HOST out")
}
