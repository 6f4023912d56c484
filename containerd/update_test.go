//go:build linux

package containerd_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"swarm/internal/eventually"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// inside runs a script in a running container.
func (n *node) inside(id, script string) string {
	n.T.Helper()
	var out, stderr bytes.Buffer
	code, err := n.runtime.Exec(n.Ctx, &swarmv1.ExecStart{TaskId: id, Command: []string{"sh", "-c", script}}, engine.ExecStreams{Stdout: &out, Stderr: &stderr})
	if err != nil || code != 0 {
		n.T.Fatalf("%s: %v, code %d, %s", script, err, code, stderr.String())
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// Limits are read back from inside a running container. They go up, down and away again, in any
// order: each row starts from the limits of the row before it.
func TestRuntime_UpdateOfARunningContainer(t *testing.T) {
	n := newNode(t)
	c := n.container("while :; do sleep 1; done")
	pid := n.run(c).Pid
	id := c.Task.GetId()
	memory := cgroupFile("memory", "memory.limit_in_bytes", "memory.max")
	cpu := cgroupFile("cpu", "cpu.cfs_quota_us", "cpu.max")
	pids := cgroupFile("pids", "pids.max", "pids.max")
	soft := cgroupFile("memory", "memory.soft_limit_in_bytes", "memory.low")
	swap := cgroupFile("memory", "memory.memsw.limit_in_bytes", "memory.swap.max")
	free := n.inside(id, memory+"; "+soft+"; "+swap)
	none := int64(0)
	for _, row := range []struct {
		name   string
		r      *swarmv1.ResourceRequirements
		script string
		want   string
	}{
		{"all", &swarmv1.ResourceRequirements{Limits: limits(5e8, 64<<20, 50)}, memory + ";" + cpu + ";" + pids, "67108864\n" + either("50000", "50000 100000") + "\n50"},
		{"swap with memory", &swarmv1.ResourceRequirements{Limits: limits(0, 64<<20, 0)}, swap, swapLimit(64<<20, 64<<20)},
		{"more memory than memory and swap were", &swarmv1.ResourceRequirements{Limits: limits(0, 256<<20, 0)}, memory + ";" + swap, "268435456\n" + swapLimit(256<<20, 256<<20)},
		{"no swap", &swarmv1.ResourceRequirements{Limits: limits(0, 128<<20, 0), SwapBytes: &none}, memory + ";" + swap, "134217728\n" + swapLimit(128<<20, 0)},
		{"memory down to a quarter", &swarmv1.ResourceRequirements{Limits: limits(0, 32<<20, 0)}, memory + ";" + swap, "33554432\n" + swapLimit(32<<20, 32<<20)},
		{"reservation", &swarmv1.ResourceRequirements{Reservations: limits(0, 16<<20, 0)}, soft, "16777216"},
		{"nothing", nil, memory + ";" + soft + ";" + swap, free},
		{"no processes limit, no cpu limit", nil, pids + ";" + cpu, "max\n" + either("-1", "max 100000")},
	} {
		if err := n.runtime.Update(n.Ctx, id, row.r); err != nil {
			t.Fatalf("%s: %v", row.name, err)
		}
		if got := n.inside(id, row.script); got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
	all, err := n.runtime.List(n.Ctx)
	if err != nil || len(all) != 1 || all[0].Pid != pid {
		t.Errorf("containers afterwards: %+v, %v, want pid %d", all, err, pid)
	}
}

// The limits that an earlier process has set are read from the container's record. The kernel is
// not asked again.
func TestRuntime_UpdateAfterARestart(t *testing.T) {
	n := newNode(t)
	c := n.container("while :; do sleep 1; done", func(c *engine.Container) { resources(c).Limits = limits(0, 64<<20, 0) })
	n.run(c)
	id := c.Task.GetId()
	memory := cgroupFile("memory", "memory.limit_in_bytes", "memory.max")
	for _, want := range []int64{64 << 20, 96 << 20, 96 << 20} {
		n.runtime = n.newRuntime()
		if err := n.runtime.Update(n.Ctx, id, &swarmv1.ResourceRequirements{Limits: limits(0, want, 0)}); err != nil {
			t.Fatal(err)
		}
		if got := n.inside(id, memory); got != fmt.Sprint(want) {
			t.Errorf("memory limit: got %s, want %d", got, want)
		}
	}
}

func TestRuntime_UpdateBelowWhatIsUsedIsRefused(t *testing.T) {
	n := newNode(t)
	none := int64(0)
	had := &swarmv1.ResourceRequirements{Limits: limits(0, 128<<20, 0), SwapBytes: &none}
	c := n.container("head -c 50m /dev/zero > /dev/shm/held; echo held; while :; do sleep 1; done", func(c *engine.Container) {
		*resources(c) = swarmv1.ResourceRequirements{Limits: had.Limits, SwapBytes: had.SwapBytes}
	})
	n.run(c)
	id := c.Task.GetId()
	eventually.Nil(t, "the container holds memory", func() error {
		if n.read(filepath.Join(c.LogDir, engine.StdoutFile)) == "" {
			return errors.New("no output")
		}
		return nil
	})
	err := n.runtime.Update(n.Ctx, id, &swarmv1.ResourceRequirements{Limits: limits(5e8, 16<<20, 0), SwapBytes: &none})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "unable to set memory limit to 16777216 (current usage: ") {
		t.Errorf("a limit below what is used: %v, want a failed precondition that says why", err)
	}
	if got := n.inside(id, cgroupFile("memory", "memory.limit_in_bytes", "memory.max")); got != fmt.Sprint(128<<20) {
		t.Errorf("memory limit afterwards: got %s, want what it was", got)
	}
	if err := n.runtime.Update(n.Ctx, id, had); err != nil {
		t.Errorf("back to what it was: %v", err)
	}
}
