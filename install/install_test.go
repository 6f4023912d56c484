//go:build linux

package install_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"swarm/install"
)

// rig is a host in a folder, with programs that replace those of systemd.
type rig struct {
	*testing.T
	root, log string
	host      *install.Host
}

func newRig(t *testing.T, systemd bool) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root installs")
	}
	r := &rig{T: t, root: t.TempDir()}
	r.log = filepath.Join(t.TempDir(), "log")
	stubs, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", stubs+":"+os.Getenv("PATH"))
	t.Setenv("SYSTEMCTL_LOG", r.log)
	t.Setenv("SYSTEMCTL_STATE", filepath.Join(r.root, "state"))
	if systemd {
		r.write("run/systemd/system/x", "")
	}
	r.host = install.New(install.Config{Root: r.root, StateDir: "/var/lib/swarm"})
	return r
}

func (r *rig) write(file, text string) string {
	r.Helper()
	path := filepath.Join(r.root, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		r.Fatal(err)
	}
	return path
}

func (r *rig) read(file string) string {
	r.Helper()
	text, err := os.ReadFile(filepath.Join(r.root, file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.Fatal(err)
	}
	return string(text)
}

// asked returns the arguments of the systemctl calls since the last call of asked.
func (r *rig) asked() []string {
	r.Helper()
	text, err := os.ReadFile(r.log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := errors.Join(err, os.Remove(r.log)); err != nil {
		r.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func (r *rig) install(self string) install.Installed {
	r.Helper()
	in, err := r.host.Install(r.Context(), self, self)
	if err != nil {
		r.Fatalf("install %s: %v", self, err)
	}
	return in
}

// files lists all files on the host, except for those that make it a host with systemd.
func (r *rig) files() []string {
	r.Helper()
	var all []string
	err := filepath.WalkDir(r.root, func(path string, d fs.DirEntry, err error) error {
		if name := strings.TrimPrefix(path, r.root); err == nil && !d.IsDir() && !strings.HasPrefix(name, "/run/systemd") {
			all = append(all, name)
		}
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	return all
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestInstall_CopiesEnablesAndIsUndone(t *testing.T) {
	r := newRig(t, true)
	self := r.write("root/swarm", "build 1")
	equal(t, "first", r.install(self), install.Installed{Program: "/usr/local/bin/swarm", Copied: true, Unit: "swarm.service", Fresh: true})
	equal(t, "asked", r.asked(), []string{"daemon-reload", "enable --quiet swarm.service"})
	equal(t, "program", r.read("usr/local/bin/swarm"), "build 1")
	if unit := r.read("etc/systemd/system/swarm.service"); !strings.Contains(unit, "ExecStart=/usr/local/bin/swarm daemon ") {
		t.Errorf("unit without the program:\n%s", unit)
	}
	equal(t, "units", r.host.Units(), []string{"/etc/systemd/system/swarm.service", "/etc/systemd/system/swarm.slice"})

	equal(t, "again", r.install(self), install.Installed{Program: "/usr/local/bin/swarm", Unit: "swarm.service"})
	equal(t, "asked again", r.asked(), []string{"enable --quiet swarm.service"})

	r.write("root/swarm", "build 2")
	r.write("usr/local/bin/swarm.old", "build 0")
	equal(t, "another build", r.install(self).Copied, true)
	equal(t, "program", r.read("usr/local/bin/swarm"), "build 2")
	r.asked()

	removed, err := r.host.Uninstall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "removed", removed, []string{
		"/etc/systemd/system/swarm.service", "/etc/systemd/system/swarm.slice", "/usr/local/bin/swarm", "/usr/local/bin/swarm.old",
	})
	equal(t, "asked to uninstall", r.asked(), []string{
		"disable --quiet --now swarm.service", "stop swarm.slice", "daemon-reload", "reset-failed swarm.service",
	})
	equal(t, "left", r.files(), []string{"/root/swarm"})
	removed, err = r.host.Uninstall(t.Context())
	equal(t, "removed twice", removed, nil)
	if err != nil || len(r.asked()) > 0 {
		t.Errorf("uninstall twice: %v", err)
	}
}

func TestInstall_LeavesAProgramInItsPlace(t *testing.T) {
	r := newRig(t, true)
	equal(t, "installed", r.install("/usr/bin/swarm"), install.Installed{Program: "/usr/bin/swarm", Unit: "swarm.service", Fresh: true})
	if _, err := r.host.Uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "left", r.files(), nil)
}

func TestInstall_WithoutSystemdCopiesOnly(t *testing.T) {
	r := newRig(t, false)
	equal(t, "installed", r.install(r.write("home/swarm", "x")), install.Installed{Program: "/usr/local/bin/swarm", Copied: true, Fresh: true})
	equal(t, "asked", r.asked(), nil)
	equal(t, "files", r.files(), []string{"/home/swarm", "/usr/local/bin/swarm", "/var/lib/swarm/installed"})
	removed, err := r.host.Uninstall(t.Context())
	equal(t, "removed", removed, []string{"/usr/local/bin/swarm"})
	if err != nil {
		t.Error(err)
	}
}

func TestStart_SaysWhyNot(t *testing.T) {
	r := newRig(t, true)
	if err := r.host.Start(t.Context()); err != nil {
		t.Error(err)
	}
	r.write("state.broken", "")
	err := r.host.Start(t.Context())
	want := "systemctl start swarm.service: exit status 1: Job for swarm.service failed.: see `journalctl -u swarm`, which ends with: one; no disk"
	if err == nil || err.Error() != want || !errdefs.IsUnavailable(err) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestGoingDown_AsksTheInit(t *testing.T) {
	for state, want := range map[string]bool{"running": false, "degraded": false, "starting": false, "stopping": true} {
		r := newRig(t, true)
		r.write("state", state+"\n")
		if got := r.host.GoingDown(t.Context()); got != want {
			t.Errorf("%s: got %v", state, got)
		}
	}
	for level, want := range map[string]bool{"N 2": false, "2 0": true, "2 6": true, "unknown": false} {
		r := newRig(t, false)
		t.Setenv("PATH", filepath.Dir(r.write("bin/runlevel", "#!/bin/sh\necho '"+level+"'\n")))
		if got := r.host.GoingDown(t.Context()); got != want {
			t.Errorf("runlevel %s: got %v", level, got)
		}
	}
	r := newRig(t, false)
	t.Setenv("PATH", filepath.Dir(r.write("bin/rc-status", "#!/bin/sh\necho shutdown\n")))
	if !r.host.GoingDown(t.Context()) {
		t.Error("OpenRC's shutdown was not seen")
	}
}

// The units have the settings that the design promises. systemd-analyze, if it is installed, finds
// no mistakes in them.
func TestUnits(t *testing.T) {
	r := newRig(t, true)
	r.install("/usr/bin/true")
	service, slice := r.read("etc/systemd/system/swarm.service"), r.read("etc/systemd/system/swarm.slice")
	for _, line := range []string{
		"ExecStart=/usr/bin/true daemon $SWARM_DAEMON_ARGS", "Type=notify", "KillMode=process", "Delegate=yes", "Restart=always",
		"After=network-online.target local-fs.target swarm.slice", "WantedBy=multi-user.target",
	} {
		if !strings.Contains(service, line+"\n") {
			t.Errorf("%s is not in the service", line)
		}
	}
	if !strings.Contains(slice, "DefaultDependencies=no\n") {
		t.Error("systemd would stop the containers itself")
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return
	}
	units := []string{"verify"}
	for _, file := range r.host.Units() {
		units = append(units, filepath.Join(r.root, file))
	}
	if out, err := exec.CommandContext(t.Context(), analyze, units...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
