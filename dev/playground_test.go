//go:build linux

package dev_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"swarm/dev"
	"swarm/internal/eventually"
)

// options of a playground whose swarm is the test binary. Names are of this
// process, so that two runs on one machine do not meet.
func options(t *testing.T, suffix string, nodes int) dev.Options {
	t.Helper()
	needRoot(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := dev.Options{
		Name: fmt.Sprintf("t%d%s", os.Getpid()%100000, suffix), Nodes: nodes,
		Binary: exe, StartTimeout: 30 * time.Second,
	}
	o.Root = filepath.Join(t.TempDir(), "root")
	t.Cleanup(func() {
		// The test's own context has ended by now.
		if err := dev.Down(context.Background(), o.Name); err != nil {
			t.Error(err)
		}
	})
	return o
}

func up(t *testing.T, o dev.Options) *dev.Playground {
	t.Helper()
	p, err := dev.Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func states(t *testing.T, p *dev.Playground) string {
	t.Helper()
	hosts, err := p.Hosts()
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, h := range hosts {
		s = append(s, fmt.Sprintf("%s %s %s", h.Name, h.Role, h.State))
	}
	return strings.Join(s, ", ")
}

// remains lists what a playground has on this machine.
func remains(t *testing.T, o dev.Options) string {
	t.Helper()
	var out []string
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, o.Root) || strings.Contains(line, "/swarm-dev/"+o.Name+"/") {
			out = append(out, "mount "+line)
		}
	}
	cgroups, _ := filepath.Glob("/sys/fs/cgroup/*/swarm-dev-" + o.Name)
	out = append(out, cgroups...)
	for _, dir := range []string{o.Root, "/run/swarm-dev/" + o.Name} {
		if _, err := os.Lstat(dir); err == nil {
			out = append(out, dir)
		}
	}
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, e := range environs {
		if b, err := os.ReadFile(e); err == nil && strings.Contains(string(b), "SWARM_DEV="+o.Name+"\x00") {
			out = append(out, e)
		}
	}
	return strings.Join(out, "\n")
}

func companionPID(t *testing.T, h dev.Host) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.StateDir, "companion.pid"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// runs is false for zombies: containers whose parent died belong to init.
func runs(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(b), ") Z ")
}

func TestUp_MakesAClusterAndDownLeavesNothing(t *testing.T) {
	o := options(t, "a", 4)
	o.Managers = 2
	var progress []string
	o.Progress = func(s string) { progress = append(progress, s) }
	p := up(t, o)
	if got, want := states(t, p), "node1 manager running, node2 manager running, node3 worker running, node4 worker running"; got != want {
		t.Errorf("hosts: got %s, want %s", got, want)
	}
	if want := "2 more joined as workers"; len(progress) == 0 || progress[len(progress)-1] != want {
		t.Errorf("progress: got %q, want last %q", progress, want)
	}
	if _, err := dev.Up(t.Context(), o); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("second up: got %v, want already exists", err)
	}
	names, err := dev.List()
	if err != nil || !strings.Contains(strings.Join(names, " "), o.Name) {
		t.Errorf("list: got %v, %v", names, err)
	}
	h, err := p.Host("node3")
	if err != nil {
		t.Fatal(err)
	}
	// The machine reaches a host, and a host sees its own name.
	c, err := net.DialTimeout("tcp4", net.JoinHostPort(h.Address.String(), "2377"), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	out := &strings.Builder{}
	cmd := exec.Command("/bin/sh", "-c", "hostname; echo $SWARM_HOST")
	cmd.Stdout = out
	if err := p.Command("node3", cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := "node3\nunix://" + h.Socket + "\n"; out.String() != want {
		t.Errorf("command inside: got %q, want %q", out, want)
	}
	pid := companionPID(t, h)
	for range 2 {
		if err := dev.Down(t.Context(), o.Name); err != nil {
			t.Fatal(err)
		}
	}
	if left := remains(t, o); left != "" {
		t.Errorf("down left:\n%s", left)
	}
	if runs(pid) {
		t.Errorf("container process %s still runs", pid)
	}
	if _, err := dev.Open(o.Name); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("open after down: got %v, want not found", err)
	}
}

func TestUp_FailureSaysWhyAndLeavesNothing(t *testing.T) {
	o := options(t, "b", 3)
	o.DaemonArgs = []string{"--refuse", "node2"}
	_, err := dev.Up(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "node2 was told to refuse") {
		t.Errorf("up: got %v, want the daemon's own words", err)
	}
	if left := remains(t, o); left != "" {
		t.Errorf("a failed up left:\n%s", left)
	}
}

func TestDown_WithoutARecordAfterACrash(t *testing.T) {
	o := options(t, "c", 2)
	o.Root = filepath.Join("/var/lib/swarm-dev", o.Name)
	up(t, o)
	if err := os.Remove("/run/swarm-dev/" + o.Name + "/playground.json"); err != nil {
		t.Fatal(err)
	}
	if err := dev.Down(t.Context(), o.Name); err != nil {
		t.Fatal(err)
	}
	if left := remains(t, o); left != "" {
		t.Errorf("down left:\n%s", left)
	}
}

func TestUp_TakesOverWhatACrashHasLeft(t *testing.T) {
	o := options(t, "i", 1)
	p := up(t, o)
	h, err := p.Host("node1")
	if err != nil {
		t.Fatal(err)
	}
	pid := companionPID(t, h)
	if err := os.Remove("/run/swarm-dev/" + o.Name + "/playground.json"); err != nil {
		t.Fatal(err)
	}
	p = up(t, o)
	if got := states(t, p); got != "node1 manager running" {
		t.Errorf("hosts: %s", got)
	}
	if runs(pid) {
		t.Errorf("container process %s of the former playground still runs", pid)
	}
}

func TestHost_KillStopPowerOffAndStart(t *testing.T) {
	o := options(t, "d", 2)
	o.Managers = 1
	p := up(t, o)
	ctx := t.Context()
	h, err := p.Host("node2")
	if err != nil {
		t.Fatal(err)
	}
	container := companionPID(t, h)
	step := func(what string, err error, want string, containerRuns bool) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if diff := cmp.Diff("node1 manager running, node2 worker "+want, states(t, p)); diff != "" {
			t.Errorf("after %s (-want +got):\n%s", what, diff)
		}
		if got := runs(container); got != containerRuns {
			t.Errorf("after %s the container runs: %v, want %v", what, got, containerRuns)
		}
	}
	step("kill", p.Kill(ctx, "node2"), "stopped", true)
	step("kill again", p.Kill(ctx, "node2"), "stopped", true)
	step("start", p.Start(ctx, "node2"), "running", true)
	step("start again", p.Start(ctx, "node2"), "running", true)
	step("stop", p.Stop(ctx, "node2"), "stopped", true)
	step("start", p.Start(ctx, "node2"), "running", true)
	step("power off", p.PowerOff(ctx, "node2"), "off", false)
	if _, err := os.Stat(h.StateDir); err != nil {
		t.Errorf("the disk did not survive the power: %v", err)
	}
	if _, err := os.Stat(h.RunDir); !os.IsNotExist(err) {
		t.Errorf("the run folder survived the power: %v", err)
	}
	if err := p.Command("node2", exec.Command("/bin/true")); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("command in a host that is off: got %v", err)
	}
	step("power on", p.Start(ctx, "node2"), "running", false)
	if err := p.Kill(ctx, "node9"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("kill of an unknown host: got %v", err)
	}
}

func TestCutAndHeal(t *testing.T) {
	o := options(t, "e", 3)
	p := up(t, o)
	reach := func(from, to string, want bool) {
		t.Helper()
		h, err := p.Host(to)
		if err != nil {
			t.Fatal(err)
		}
		patience := 300 * time.Millisecond
		if want {
			patience = 10 * time.Second
		}
		dial := func() error {
			c, err := net.DialTimeout("tcp4", net.JoinHostPort(h.Address.String(), "2377"), patience)
			if err == nil {
				c.Close()
			}
			return err
		}
		if err := p.Do(from, dial); (err == nil) != want {
			t.Errorf("%s reaches %s: %v, want %v", from, to, err, want)
		}
	}
	cut := func(c dev.Cut) {
		t.Helper()
		if err := p.Cut(c); err != nil {
			t.Fatal(err)
		}
	}
	heal := func(hosts ...string) {
		t.Helper()
		if err := p.Heal(hosts...); err != nil {
			t.Fatal(err)
		}
	}
	cut(dev.Cut{Hosts: []string{"node1", "node2"}})
	cut(dev.Cut{Hosts: []string{"node3"}, Port: 2377, OneWay: true})
	reach("node1", "node2", false)
	reach("node2", "node1", false)
	reach("node1", "node3", true)
	reach("node3", "node1", false)
	heal("node3")
	reach("node3", "node1", true)
	reach("node1", "node2", false)
	// A fault outlasts the host's reboot.
	if err := p.PowerOff(t.Context(), "node2"); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context(), "node2"); err != nil {
		t.Fatal(err)
	}
	reach("node2", "node1", false)
	heal()
	reach("node2", "node1", true)
	cut(dev.Cut{Hosts: []string{"node2"}})
	reach("node2", "node1", false)
	heal()
	h, err := p.Host("node3")
	if err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "node2 reaches node3 after its cable is back", func() bool {
		return p.Do("node2", func() error {
			c, err := net.DialTimeout("tcp4", net.JoinHostPort(h.Address.String(), "2377"), 300*time.Millisecond)
			if err == nil {
				c.Close()
			}
			return err
		}) == nil
	})
}

func TestPlaygrounds_DoNotMeet(t *testing.T) {
	a, b := options(t, "f", 1), options(t, "g", 1)
	pa, pb := up(t, a), up(t, b)
	ha, err := pa.Host("node1")
	if err != nil {
		t.Fatal(err)
	}
	hb, err := pb.Host("node1")
	if err != nil {
		t.Fatal(err)
	}
	if ha.Address == hb.Address {
		t.Errorf("both have a host at %s", ha.Address)
	}
	if err := dev.Down(t.Context(), a.Name); err != nil {
		t.Fatal(err)
	}
	if got := states(t, pb); got != "node1 manager running" {
		t.Errorf("the other playground after down: %s", got)
	}
}

func TestOptions_Refused(t *testing.T) {
	needRoot(t)
	for name, o := range map[string]dev.Options{
		"name":          {Name: "Not A Name"},
		"managers":      {Name: "x", Nodes: 2, Managers: 3},
		"nodes":         {Name: "x", Nodes: 1000},
		"relative root": {Name: "x", Root: "here"},
		"root is /":     {Name: "x", Root: "/"},
	} {
		if _, err := dev.Up(t.Context(), o); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: got %v, want invalid argument", name, err)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o := options(t, "h", 1)
	o.Root = dir
	if _, err := dev.Up(t.Context(), o); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("root in use: got %v", err)
	}
	if err := dev.Down(t.Context(), o.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "precious")); err != nil {
		t.Errorf("down removed a folder that was not its own: %v", err)
	}
}
