//go:build linux

package install

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The program that was inspected is the one that is installed, from a copy in a folder of root,
// even if the original file changes.
func TestStage_KeepsWhatItLookedAt(t *testing.T) {
	state, dir := t.TempDir(), t.TempDir()
	file := filepath.Join(dir, "next")
	answer := fmt.Sprintf("#!/bin/sh\necho '{\"Build\":\"b2\",\"Os\":%q,\"Arch\":%q}'\n", runtime.GOOS, runtime.GOARCH)
	if err := os.WriteFile(file, []byte(answer), 0o755); err != nil {
		t.Fatal(err)
	}
	p, release, err := Stage(t.Context(), file, state)
	if err != nil || p.Version.GetBuild() != "b2" {
		t.Fatalf("stage: %v, %v", p, err)
	}
	if err := os.WriteFile(file, []byte("#!/bin/sh\necho evil\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(p.Path); err != nil || string(got) != answer {
		t.Errorf("the copy: got %q, %v, want what was looked at", got, err)
	}
	if info, err := os.Stat(filepath.Dir(p.Path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder of the copy: %v, %v, want one for its owner alone", info.Mode(), err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	empty(t, state)
}

func TestStage_RefusesWhatIsNoProgram(t *testing.T) {
	state, dir := t.TempDir(), t.TempDir()
	fifo, text := filepath.Join(dir, "fifo"), filepath.Join(dir, "text")
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(text, []byte("no program"), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		fifo: "not a regular file", dir: "not a regular file", "/dev/zero": "not a regular file",
		text: text + " is not a swarm", filepath.Join(dir, "absent"): "no such file",
	} {
		if _, _, err := Stage(t.Context(), path, state); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
	empty(t, state)
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in the state folder: %v, %v", left, err)
	}
}
