//go:build linux

package binary

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// source is a program that sleeps, and a runc that is only bytes.
func source(t *testing.T) Source {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	return Source{Program: sleep, Runc: []byte("runc")}
}

func mustInstall(t *testing.T, dir, build string, src Source) Set {
	t.Helper()
	set, err := Install(dir, build, src)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestInstall_IsWholeAndFindsItselfAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bin")
	src := source(t)
	set := mustInstall(t, dir, "b1", src)
	want, err := os.ReadFile(src.Program)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][]byte{set.Program: want, set.Shim: want, set.Runc: src.Runc} {
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v, want %d", path, len(got), err, len(want))
		}
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: got %v, %v, want a regular executable", path, info, err)
		}
	}
	before, err := os.Stat(set.Dir)
	if err != nil {
		t.Fatal(err)
	}
	again := mustInstall(t, dir, "b1", Source{Program: "/nonexistent"}) // must not be needed
	if diff := cmp.Diff(set, again); diff != "" {
		t.Errorf("second install (-first +second):\n%s", diff)
	}
	if after, err := os.Stat(set.Dir); err != nil || !os.SameFile(before, after) {
		t.Errorf("second install replaced the folder (%v)", err)
	}
}

func TestInstall_RepairsWhatIsNotAsItWas(t *testing.T) {
	for name, damage := range map[string]func(Set) error{
		"truncated":   func(s Set) error { return os.Truncate(s.Runc, 1) },
		"flipped":     func(s Set) error { return os.WriteFile(s.Runc, []byte("cnur"), 0o700) },
		"missing":     func(s Set) error { return os.Remove(s.Shim) },
		"symlink":     func(s Set) error { return errors.Join(os.Remove(s.Shim), os.Symlink(s.Program, s.Shim)) },
		"no mode":     func(s Set) error { return os.Chmod(s.Program, 0o600) },
		"no manifest": func(s Set) error { return os.Remove(filepath.Join(s.Dir, manifestName)) },
		"torn manifest": func(s Set) error {
			return os.Truncate(filepath.Join(s.Dir, manifestName), 10)
		},
		"flipped in an earlier boot": func(s Set) error {
			return errors.Join(editManifest(s, func(m *manifest) { m.BootID = "earlier" }), keepTime(s.Runc, "cnur"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			src := source(t)
			set := mustInstall(t, dir, "b1", src)
			if err := damage(set); err != nil {
				t.Fatal(err)
			}
			if err := verifySet(set); err == nil {
				t.Fatal("verify: got nil, want the damage found")
			}
			mustInstall(t, dir, "b1", src)
			if err := verifySet(set); err != nil {
				t.Errorf("verify after repair: %v", err)
			}
			if left, err := filepath.Glob(filepath.Join(dir, ".new-*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestInstall_ComparesDigestsOnceABoot(t *testing.T) {
	dir := t.TempDir()
	set := mustInstall(t, dir, "b1", source(t))
	if err := editManifest(set, func(m *manifest) { m.BootID = "earlier" }); err != nil {
		t.Fatal(err)
	}
	mustInstall(t, dir, "b1", Source{Program: "/nonexistent"})
	// The folder is trusted for the rest of this boot, so a change that keeps its time is not
	// noticed.
	if err := keepTime(set.Runc, "cnur"); err != nil {
		t.Fatal(err)
	}
	if err := verifySet(set); err != nil {
		t.Errorf("verify in the same boot: got %v, want size and time trusted", err)
	}
}

func TestInstall_AtOnceByManyAndAfterACrash(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, ".new-crashed", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	src := source(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := Install(dir, "b1", src); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{".lock", "b1"}, names); diff != "" {
		t.Errorf("folder (-want +got):\n%s", diff)
	}
}

func TestInstall_Refuses(t *testing.T) {
	for _, build := range []string{"", ".", "..", ".hidden", "a/b"} {
		if _, err := Install(t.TempDir(), build, source(t)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("build %q: got %v, want invalid argument", build, err)
		}
	}
}

func TestInstall_RefusesNoexecWithTheRemedy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOEXEC, "size=1m"); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	_, err := Install(filepath.Join(dir, "bin"), "b1", source(t))
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "--state-dir") || strings.Contains(err.Error(), "\n") {
		t.Errorf("noexec: got %v, want one line of a failed precondition with its remedy", err)
	}
}

func TestCensus_NamesPartsAndBuilds(t *testing.T) {
	dir := t.TempDir()
	src := source(t)
	before, now := mustInstall(t, dir, "v1", src), mustInstall(t, dir, "v2", src)
	for _, program := range []string{now.Program, before.Shim, before.Shim, now.Shim} {
		cmd := exec.Command(program, "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
	got, err := Census(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []Running{{PartRuntime, "v2"}, {PartShim, "v1"}, {PartShim, "v2"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("census (-want +got):\n%s", diff)
	}
}

func TestPrune_KeepsWhatIsUsed(t *testing.T) {
	dir, bundles := t.TempDir(), t.TempDir()
	src := source(t)
	running := mustInstall(t, dir, "running", src)
	named := mustInstall(t, dir, "named", src)
	for _, build := range []string{"kept", "old1", "old2"} {
		mustInstall(t, dir, build, src)
	}
	cmd := exec.Command(running.Program, "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	bundle := filepath.Join(bundles, "swarm", "c1")
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "shim-binary-path"), []byte(named.Shim), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link") // the daemon may know the folder by another name
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{dir, link} {
		removed, err := Prune(dir, bundles, "kept")
		if err != nil {
			t.Fatal(err)
		}
		if dir == link {
			removed = append(removed, "old1", "old2")
		}
		if diff := cmp.Diff([]string{"old1", "old2"}, removed); diff != "" {
			t.Errorf("removed (-want +got):\n%s", diff)
		}
	}
	if removed, err := Prune(filepath.Join(dir, "none"), bundles); err != nil || removed != nil {
		t.Errorf("prune of no folder: got %v, %v, want nothing", removed, err)
	}
}

func TestBuildID_DiffersByContentsAndFitsAFileName(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a, err := BuildID(self, "v1.2.3-4-gabc dirty/ö")
	if err != nil {
		t.Fatal(err)
	}
	if want := "v1.2.3-4-gabc_dirty__-"; !strings.HasPrefix(a, want) || len(a) != len(want)+12 {
		t.Errorf("build: got %q, want %q and 12 digits", a, want)
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip(err)
	}
	if b, err := BuildID(goTool, "v1.2.3-4-gabc dirty/ö"); err != nil || a == b {
		t.Errorf("build of another program: got %q, %v, want another than %q", b, err, a)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := BuildID(script, "v1"); err == nil {
		t.Error("build of a script: got nil, want an error")
	}
}

func editManifest(s Set, edit func(*manifest)) error {
	path := filepath.Join(s.Dir, manifestName)
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	edit(&m)
	if data, err = json.Marshal(m); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// keepTime overwrites a file without changing its time.
func keepTime(path, data string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(path, []byte(data), 0o700), os.Chtimes(path, time.Time{}, info.ModTime()))
}
