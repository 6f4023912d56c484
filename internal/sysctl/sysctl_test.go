package sysctl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRaise(t *testing.T) {
	root, record := t.TempDir(), filepath.Join(t.TempDir(), "run", "sysctls")
	for key, value := range map[string]int64{
		"fs.inotify.max_user_instances": 128, "fs.inotify.max_user_watches": 4 << 20, "kernel.pid_max": 32768, "kernel.pty.max": 4096,
	} {
		if err := os.MkdirAll(filepath.Dir(path(root, key)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := set(root, key, value); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when string, values map[string]int64) {
		t.Helper()
		for key, want := range values {
			if got, err := get(root, key); err != nil || got != want {
				t.Errorf("%s: %s is %d, %v, want %d", when, key, got, err, want)
			}
		}
	}
	for range 2 { // a restarted daemon keeps the values from before the first start
		if err := raise(root, record); err != nil {
			t.Fatal(err)
		}
		want("raised", map[string]int64{
			"fs.inotify.max_user_instances": 8192, "fs.inotify.max_user_watches": 4 << 20, "kernel.pid_max": 4 << 20, "kernel.pty.max": 16384,
		})
	}
	if _, err := get(root, "fs.aio-max-nr"); err == nil {
		t.Error("a limit that the kernel does not have was made")
	}
	if err := set(root, "kernel.pty.max", 5000); err != nil { // the operator changes it
		t.Fatal(err)
	}
	for range 2 {
		if err := restore(root, record); err != nil {
			t.Fatal(err)
		}
		want("restored", map[string]int64{
			"fs.inotify.max_user_instances": 128, "fs.inotify.max_user_watches": 4 << 20, "kernel.pid_max": 32768, "kernel.pty.max": 5000,
		})
	}
}

func TestRaise_TellsWhatItCannot(t *testing.T) {
	root, record := t.TempDir(), filepath.Join(t.TempDir(), "sysctls")
	for _, key := range []string{"kernel.pid_max", "kernel.pty.max"} {
		if err := os.MkdirAll(filepath.Dir(path(root, key)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(path(root, "kernel.pid_max"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := set(root, "kernel.pty.max", 1); err != nil {
		t.Fatal(err)
	}
	if err := raise(root, record); err == nil || !strings.Contains(err.Error(), "kernel.pid_max") {
		t.Errorf("a limit that cannot be read: got %v, want its name", err)
	}
	if got, err := get(root, "kernel.pty.max"); err != nil || got != 16384 {
		t.Errorf("the limit after it is %d, %v, want it raised", got, err)
	}
}
