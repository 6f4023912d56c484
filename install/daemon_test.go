//go:build linux

package install

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// A daemon holds the lock of its state folder, and EndDaemon returns when the folder is free.
func TestEndDaemon_WaitsForTheLock(t *testing.T) {
	dir := t.TempDir()
	if err := EndDaemon(1<<22+1, dir); err != nil { // The process does not exist, and no daemon has used the folder.
		t.Error(err)
	}
	f, err := os.OpenFile(lockFile(dir), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if !lock(f, 0) {
		t.Fatal("a new lock is taken")
	}
	daemon := exec.Command("sleep", "60")
	daemon.ExtraFiles = []*os.File{f} // The child gets the lock with the open file.
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := os.OpenFile(lockFile(dir), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if lock(other, 0) {
		t.Error("two processes hold the lock")
	}
	if err := errors.Join(EndDaemon(daemon.Process.Pid, dir), other.Close()); err != nil {
		t.Error(err)
	}
	_ = daemon.Wait() // The daemon was ended by a signal.
	unlock, err := LockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestDetach_SaysWhyTheDaemonEnded(t *testing.T) {
	log := filepath.Join(t.TempDir(), "state", "daemon.log")
	program := filepath.Join(t.TempDir(), "swarm")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho no disk >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Detach(t.Context(), program, program, log)
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "it ended at once (exit status 1): see "+log+", which ends with: no disk") {
		t.Errorf("got %v", err)
	}
}
