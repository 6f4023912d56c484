//go:build linux

package containerd_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"swarm/internal/eventually"
)

// A shim that was stopped with SIGSTOP, or that waits for a disk, does not answer. The container
// ends nevertheless.
func TestRuntime_StopWithAShimThatDoesNotAnswer(t *testing.T) {
	n := newNode(t)
	c := n.container("sleep 600")
	pid := n.run(c).Pid
	shims := n.Shims()
	if len(shims) != 1 {
		t.Fatalf("shims: got %v, want one", shims)
	}
	if err := syscall.Kill(shims[0], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(shims[0], syscall.SIGCONT) }()
	if err := n.runtime.Stop(n.Ctx, c.Task.GetId(), "", time.Second); err != nil {
		t.Errorf("stop: %v", err)
	}
	if text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/pids", n.Cgroup, c.Task.GetId(), "cgroup.procs")); err == nil && len(text) > 0 {
		t.Errorf("the container's cgroup has the processes %q, want none; its first one was %d", text, pid)
	}
	if err := syscall.Kill(shims[0], syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually.Nil(t, "removal", func() error { return n.runtime.Remove(n.Ctx, c.Task.GetId()) })
	n.ShimsEnd()
}
