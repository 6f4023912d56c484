//go:build linux

package install_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"swarm/install"
)

// deployment is the deployment on a rig's host, with a record of the functions that it called.
func (r *rig) deployment(program string, traces error) (*install.Deployment, *[]string) {
	r.Helper()
	var called []string
	note := func(what string, err error) func(context.Context) error {
		return func(context.Context) error {
			called = append(called, what)
			return err
		}
	}
	return install.NewDeployment(r.host, install.DeploymentConfig{
		StateDir: "/var/lib/swarm", RunDir: "/run/swarm", Program: program, Content: program,
	}, install.DeploymentDeps{StopRuntime: note("stop runtime", nil), RemoveTraces: note("remove traces", traces)}), &called
}

func (r *rig) exists(file string) bool {
	_, err := os.Lstat(filepath.Join(r.root, file))
	return err == nil
}

// The state stays without --purge and is removed with it. Files beside the state stay in both
// cases.
func TestUninstall_RemovesWhatTheDaemonLeaves(t *testing.T) {
	for _, purge := range []bool{false, true} {
		r := newRig(t, true)
		d, called := r.deployment(r.write("home/me/swarm", "program"), nil)
		if _, err := d.Install(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"run/swarm/netns/x", "var/lib/swarm/node.json", "run/swarm2/x", "var/lib/other"} {
			r.write(file, "text")
		}
		if !d.Member() {
			t.Error("the host does not remember to be a member")
		}
		removed, err := d.Uninstall(t.Context(), purge)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "called", *called, []string{"stop runtime", "remove traces"})
		if r.exists("run/swarm") || r.exists("usr/local/bin/swarm") || r.exists("var/lib/swarm/node.json") == purge || d.Member() == purge {
			t.Errorf("purge=%t: there is %v", purge, r.files())
		}
		if !r.exists("run/swarm2/x") || !r.exists("var/lib/other") {
			t.Errorf("purge=%t: files of others are gone: there is %v", purge, r.files())
		}
		if slices.Contains(removed, "/var/lib/swarm") != purge || !slices.Contains(removed, "/run/swarm") {
			t.Errorf("purge=%t: removed %v", purge, removed)
		}
		removed, err = d.Uninstall(t.Context(), purge)
		if err != nil || len(removed) > 0 {
			t.Errorf("purge=%t, once more: removed %v, %v", purge, removed, err)
		}
	}
}

// If something in the kernel cannot be removed, the program stays, because another attempt needs
// it.
func TestUninstall_KeepsTheProgramUntilTheKernelIsClean(t *testing.T) {
	r := newRig(t, true)
	busy := errors.New("device is busy")
	d, _ := r.deployment(r.write("home/me/swarm", "program"), busy)
	if _, err := d.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Uninstall(t.Context(), true); !errors.Is(err, busy) {
		t.Errorf("got %v, want %v", err, busy)
	}
	if !r.exists("usr/local/bin/swarm") || !r.exists("etc/systemd/system/swarm.service") {
		t.Errorf("there is %v", r.files())
	}
}

// The undo of a first installation removes it. The undo of a later one only stops the service.
func TestDeployment_UndoOfInstall(t *testing.T) {
	r := newRig(t, true)
	d, called := r.deployment(r.write("home/me/swarm", "program"), nil)
	first, err := d.Install(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := d.Install(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Undo(t.Context()); err != nil || !r.exists("usr/local/bin/swarm") || len(*called) > 0 {
		t.Errorf("undo of the second: %v, there is %v, called %v", err, r.files(), *called)
	}
	if err := first.Undo(t.Context()); err != nil || r.exists("usr/local/bin/swarm") {
		t.Errorf("undo of the first: %v, there is %v", err, r.files())
	}
	equal(t, "called", *called, []string{"stop runtime"})
}

// A daemon that answers is not started again.
func TestDeployment_StartFindsTheDaemon(t *testing.T) {
	r := newRig(t, true)
	d, _ := r.deployment(r.write("home/me/swarm", "program"), nil)
	dir, err := os.MkdirTemp("", "start") // The path of t.TempDir is too long for a socket.
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	if started, err := d.Start(t.Context(), socket, false); started != nil || err != nil {
		t.Errorf("a daemon runs: got %v, %v", started, err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	started, err := d.Start(t.Context(), socket, false)
	if err != nil || started.Unit != install.Service || !started.Copied {
		t.Errorf("with systemd: got %+v, %v", started, err)
	}
}

// A daemon that ends at once is reported with its log. Its program is not copied.
func TestDeployment_StartWithoutSystemd(t *testing.T) {
	r := newRig(t, true)
	program := r.write("home/me/swarm", "#!/bin/sh\necho no disk >&2\nexit 1\n")
	d := install.NewDeployment(r.host, install.DeploymentConfig{
		StateDir: t.TempDir(), RunDir: t.TempDir(), Program: program, Content: program,
	}, install.DeploymentDeps{})
	_, err := d.Start(t.Context(), filepath.Join(r.root, "absent.sock"), true)
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no disk") {
		t.Errorf("got %v, want ErrUnavailable with the end of the log", err)
	}
	if r.exists("usr/local/bin/swarm") {
		t.Error("the program is installed")
	}
}
