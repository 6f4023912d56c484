//go:build linux

package companion_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"

	"swarm/containerd/binary"
	"swarm/containerd/companion"
	"swarm/containerd/layout"
	"swarm/internal/eventually"
)

func TestRuntime_RecordsExitsAndKeepsThemUntilRemoved(t *testing.T) {
	n := newNode(t)
	task := n.run("c1", "", []string{"exit", "7"})
	status, err := task.Wait(n.Ctx)
	if err != nil {
		t.Fatal(err)
	}
	s := <-status
	if s.ExitCode() != 7 || s.Error() != nil {
		t.Fatalf("exit: got %d, %v, want 7", s.ExitCode(), s.Error())
	}
	got, err := n.record("c1") // the record exists before the exit is reported
	if err != nil || got.Status != 7 || got.OOM || got.ShimLost || !got.ExitedAt.Equal(s.ExitTime()) {
		t.Errorf("record: got %+v, %v, want status 7 at %v", got, err, s.ExitTime())
	}
	if err := n.remove(n.Ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.record("c1"); err != nil {
		t.Errorf("record after deletion: got %v, want it kept", err)
	}

	task = n.run("c1", "", []string{"wait"}) // a namesake begins without a past
	if r, err := n.record("c1"); !errdefs.IsNotFound(err) {
		t.Errorf("record of a running container: got %+v, %v, want not found", r, err)
	}
	if err := task.Kill(n.Ctx, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := n.awaitRecord("c1"); got.Status != 137 || got.OOM {
		t.Errorf("record: got %+v, want status 137 and no OOM", got)
	}
}

func TestRuntime_RecordsThatMemoryRanOut(t *testing.T) {
	n := newNode(t)
	n.run("hungry", "", []string{"eat"}, oci.WithMemoryLimit(32<<20))
	if got := n.awaitRecord("hungry"); got.Status != 137 || !got.OOM {
		t.Errorf("record: got %+v, want status 137 by OOM", got)
	}
}

func TestRuntime_KilledLosesNeitherContainersNorExits(t *testing.T) {
	n := newNode(t)
	stays := n.run("stays", "g1", []string{"wait"})
	leaves := n.run("leaves", "g1", []string{"wait"})
	alone := n.run("alone", "", []string{"wait"})
	n.awaitReady(leaves, alone)

	n.Kill()
	for _, task := range []containerd.Task{leaves, alone} {
		if err := syscall.Kill(int(task.Pid()), syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"leaves", "alone"} {
		if got := n.awaitRecord(id); got.Status != 3 || got.ShimLost {
			t.Errorf("record of %s: got %+v, want status 3", id, got)
		}
	}

	n.Start("")
	n.wantRunning("stays", stays.Pid())
	if status, err := n.status("leaves"); err == nil && status == containerd.Running {
		t.Errorf("container that has ended: got %s, want stopped or not found", status)
	}
	for _, id := range []string{"leaves", "alone"} {
		if got, err := n.record(id); err != nil || got.Status != 3 {
			t.Errorf("record of %s when containerd is back: got %+v, %v, want status 3", id, got, err)
		}
	}
}

func TestRuntime_DeadShimTakesItsGroupAndNoOther(t *testing.T) {
	n := newNode(t)
	n.run("a1", "a", []string{"wait"})
	n.run("a2", "a", []string{"wait"})
	doomed := n.Shims()
	other := n.run("b1", "b", []string{"wait"})
	if len(doomed) != 1 {
		t.Fatalf("shims of one group: got %v, want one", doomed)
	}
	if err := syscall.Kill(doomed[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a1", "a2"} {
		if got := n.awaitRecord(id); got.Status != 137 || !got.ShimLost {
			t.Errorf("record of %s: got %+v, want 137 with the shim lost", id, got)
		}
	}
	n.wantRunning("b1", other.Pid())
}

func TestRuntime_TenContainersShareAShim(t *testing.T) {
	n := newNode(t)
	ids := make([]string, 10)
	for i := range ids {
		ids[i] = fmt.Sprintf("c%d", i)
		n.run(ids[i], "build-1", []string{"wait"})
	}
	if got := n.Shims(); len(got) != 1 {
		t.Errorf("shims: got %v, want one", got)
	}
	// The first container's bundle is the shim's folder; the rest must not need it.
	for _, id := range ids {
		if err := n.remove(n.Ctx, id); err != nil {
			t.Fatal(err)
		}
		if got, err := n.record(id); err != nil || got.Status != 137 {
			t.Errorf("record of %s: got %+v, %v, want status 137", id, got, err)
		}
	}
	eventually.Nil(t, "end of the shim", func() error {
		if got := n.Shims(); len(got) != 0 {
			return fmt.Errorf("shims: got %v, want none", got)
		}
		left, err := os.ReadDir(layout.ShimSockets(n.Layout.State()))
		if err != nil || len(left) != 0 {
			return fmt.Errorf("shim sockets: got %v, %v, want none", left, err)
		}
		return nil
	})
}

func TestRuntime_TwoSideBySideShareNothing(t *testing.T) {
	a, b := newNode(t), newNode(t)
	a.run("same", "g", []string{"wait"})
	kept := b.run("same", "g", []string{"wait"})
	if err := a.remove(a.Ctx, "same"); err != nil {
		t.Fatal(err)
	}
	a.Stop()
	if err := companion.Stop(a.Ctx, a.Layout.Root()); err != nil {
		t.Fatal(err)
	}
	b.wantRunning("same", kept.Pid())
	if r, err := b.record("same"); !errdefs.IsNotFound(err) {
		t.Errorf("record of the other node's namesake: got %+v, %v, want not found", r, err)
	}
	a.Start("") // for the clean-up
}

func TestCompanion_RestartsWhatDies(t *testing.T) {
	n := newNode(t)
	task := n.run("c1", "", []string{"wait"})
	before := n.Pid()
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually.Nil(t, "another runtime process", func() error {
		if pid := n.Pid(); pid == 0 || pid == before {
			return fmt.Errorf("process %d holds the lock", pid)
		}
		serving, err := n.client.IsServing(n.Ctx)
		if err == nil && !serving {
			err = errors.New("not serving")
		}
		return err
	})
	n.wantRunning("c1", task.Pid())
}

func TestCompanion_AdoptsItsLikeAndReplacesOthers(t *testing.T) {
	n := newNode(t)
	task := n.run("c1", "", []string{"wait"})
	first := n.Pid()

	n.Stop()
	n.Start("")
	if got := n.Pid(); got != first {
		t.Errorf("same build and settings: got process %d, want %d adopted", got, first)
	}
	n.Stop()
	n.Start("info")
	second := n.Pid()
	if second == first {
		t.Errorf("other settings: got process %d again, want another", first)
	}
	n.Stop()
	old := n.Programs
	n.Programs = n.Install("next")
	n.Start("info")
	if got := n.Pid(); got == second {
		t.Errorf("other build: got process %d again, want another", second)
	}
	n.wantRunning("c1", task.Pid())

	// The old build's shim is in use, so its folder stays.
	removed, err := binary.Prune(n.Layout.Bin(), layout.Bundles(n.Layout.State()), n.Programs.Build)
	if err != nil || len(removed) != 0 {
		t.Errorf("prune while the old shim runs: removed %v, %v, want none", removed, err)
	}
	n.Programs = old
	if len(n.Shims()) != 1 {
		t.Errorf("shims of the old build: got %v, want one", n.Shims())
	}
	if err := n.remove(n.Ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	eventually.Nil(t, "pruning of the old build", func() error {
		removed, err := binary.Prune(n.Layout.Bin(), layout.Bundles(n.Layout.State()), "next")
		if err == nil && (len(removed) != 1 || removed[0] != "test") {
			err = fmt.Errorf("removed %v", removed)
		}
		return err
	})
}

func TestRuntime_RefusesARootInUse(t *testing.T) {
	n := newNode(t)
	out, err := exec.Command(n.Programs.Program, "runtime",
		"--root", n.Layout.Root(), "--state", n.Layout.State(), "--address", n.Layout.Socket()+"2",
		"--bin-dir", n.Programs.Dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), fmt.Sprintf("process %d already does", n.Pid())) {
		t.Errorf("second server: got %v, %q, want a refusal that names process %d", err, out, n.Pid())
	}
	if serving, err := n.client.IsServing(n.Ctx); err != nil || !serving {
		t.Errorf("first server: got %v, %v, want it serving", serving, err)
	}
}

func TestStop_LeavesContainersRunning(t *testing.T) {
	n := newNode(t)
	task := n.run("c1", "", []string{"wait"})
	n.Stop()
	if err := companion.Stop(n.Ctx, n.Layout.Root()); err != nil {
		t.Fatal(err)
	}
	if err := companion.Stop(n.Ctx, n.Layout.Root()); err != nil {
		t.Errorf("second stop: got %v, want nil", err)
	}
	if got := n.Pid(); got != 0 {
		t.Fatalf("process %d still serves", got)
	}
	n.Start("")
	n.wantRunning("c1", task.Pid())
}
