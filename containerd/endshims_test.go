//go:build linux

package containerd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"swarm/containerd/layout"
	"swarm/internal/eventually"
)

// A containerd that is killed while it starts a shim leaves a shim that nobody asks to end, and a
// bundle that it could not delete. The next daemon ends the shim, even if it is frozen, and removes
// the bundle, and no shim that has a container.
func TestRuntime_EndShims(t *testing.T) {
	n := newNode(t)
	kept, lost := n.container("sleep 600"), n.container("sleep 600")
	n.run(kept)
	before := n.Shims()
	pid := n.run(lost).Pid
	frozen := 0
	for _, shim := range n.Shims() {
		if len(before) == 1 && shim != before[0] {
			frozen = shim
		}
	}
	if frozen == 0 {
		t.Fatalf("shims of two containers of a service: got %v, then %v, want another one", before, n.Shims())
	}
	if err := syscall.Kill(frozen, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := n.client.ContainerService().Delete(n.Ctx, lost.Task.GetId()); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(layout.Bundles(n.Layout.State()), layout.Namespace, "left")
	if err := os.MkdirAll(filepath.Join(left, "rootfs", "etc"), 0o700); err != nil {
		t.Fatal(err)
	}

	n.newRuntime().EndShims(n.Ctx)
	eventually.Nil(t, "end of the shim and its container", func() error {
		if shims := n.Shims(); len(shims) != 1 || shims[0] != before[0] {
			return errors.New("the shims are not only that with a container")
		}
		if err := syscall.Kill(int(pid), 0); !errors.Is(err, syscall.ESRCH) {
			return errors.New("the container without a record runs")
		}
		return nil
	})
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("bundle without a record: got %v, want it removed", err)
	}
	ctx, cancel := context.WithTimeout(n.Ctx, 500*time.Millisecond)
	defer cancel()
	if exit, err := n.runtime.Wait(ctx, kept.Task.GetId()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the other container: got %+v, %v, want it to run", exit, err)
	}
}
