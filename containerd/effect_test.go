//go:build linux

package containerd_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

func limits(nano, memory, pids int64) *swarmv1.Resources {
	return &swarmv1.Resources{NanoCpus: nano, MemoryBytes: memory, Pids: proto.Int64(pids)}
}

// cgroupFile reads a limit of the container's own cgroup. It gets the name of the file in each
// version of cgroups.
func cgroupFile(controller, v1, v2 string) string {
	return fmt.Sprintf(`if [ -f /sys/fs/cgroup/cgroup.controllers ]; then cat /sys/fs/cgroup/%s; else cat /sys/fs/cgroup/%s/%s; fi`, v2, controller, v1)
}

// seccompMode is the kernel's number for filtering, if runc was built with seccomp.
func seccompMode(n *node) int {
	out, err := exec.Command(n.Programs.Runc, "features").Output()
	if err == nil && !strings.Contains(string(out), "SCMP_ACT_ALLOW") {
		return 0
	}
	return 2
}

// Every field of the spec is read back from inside a real container. TestEffects_AreOfEveryField
// checks that no field is missing.
func TestRuntime_EffectsOfTheSpec(t *testing.T) {
	n := newNode(t)
	dir := t.TempDir()
	for name, text := range map[string]string{"file": "of the host\n", "hosts": "192.0.2.1 friend\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fileSystemBelow(t, filepath.Join(dir, "below"))
	for _, e := range effects(dir, seccompMode(n)) {
		t.Run(e.name, func(t *testing.T) {
			if strings.HasPrefix(e.name, "custom seccomp") && seccompMode(n) == 0 {
				t.Skip("runc was built without seccomp")
			}
			n.T = t
			edit := e.edit
			if edit == nil {
				edit = func(*engine.Container) {}
			}
			out, stderr, exit := n.output(n.container(e.script, edit))
			if got := strings.TrimSuffix(out, "\n"); got != e.want {
				t.Errorf("%s\n(-want +got):\n%s\nstderr: %s\nexit: %+v", e.script, cmp.Diff(e.want, got), stderr, exit)
			}
		})
	}
	n.T = t
}

// fileSystemBelow mounts a file system with one file in it. Other mounts may follow.
func fileSystemBelow(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "inside"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// In production the daemon has a low score, which protects it when memory runs out. Neither
// containers nor what is run in them may inherit its score. This test raises the score, for which
// no privilege is needed.
func TestRuntime_OOMScoreIsNotTheDaemons(t *testing.T) {
	n := newNode(t)
	score := fmt.Sprintf("/proc/%d/oom_score_adj", n.Pid())
	if err := os.WriteFile(score, []byte("300"), 0o644); err != nil {
		t.Fatal(err)
	}

	c := n.container("sleep 1000")
	n.run(c)
	if got := strings.TrimSpace(n.inside(c.Task.GetId(), "cat /proc/1/oom_score_adj /proc/self/oom_score_adj")); got != "0\n0" {
		t.Errorf("scores of a container and of an exec: got %q, want 0", got)
	}
}

func TestRuntime_VolumesOutliveTheirContainers(t *testing.T) {
	n := newNode(t)
	named := func(c *engine.Container) {
		c.Spec().Mounts = []*swarmv1.Mount{
			{Type: swarmv1.Mount_VOLUME, Source: "keep", Target: "/data"},
			{Type: swarmv1.Mount_VOLUME, Target: "/own"},
		}
	}
	first := n.container("cat /data/seed; echo mine > /data/mine; echo gone > /own/f", named)
	if out, stderr, _ := n.output(first); out != "seed\n" {
		t.Errorf("first container: got %q, %q, want the image's file", out, stderr)
	}
	second := n.container("cat /data/mine; ls /own | wc -l", named)
	if out, stderr, _ := n.output(second); out != "mine\n0\n" {
		t.Errorf("second container: got %q, %q, want the first's file in the named volume alone", out, stderr)
	}
}

func TestRuntime_NothingIsLeftOfAContainer(t *testing.T) {
	n := newNode(t)
	n.output(n.container("true", func(c *engine.Container) {
		c.Files = []engine.File{{Path: "/run/secrets/s", Data: []byte("hush")}}
	}))
	for _, pattern := range []string{
		filepath.Join(n.Layout.Data, "worker/tasks/*"), filepath.Join(n.Layout.Run, "worker/files/*"),
		filepath.Join(n.Layout.State(), "exits/*/*"), "/sys/fs/cgroup/*" + n.Cgroup + "/task1", "/sys/fs/cgroup" + n.Cgroup + "/task1",
	} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("%s: got %v, %v, want none", pattern, left, err)
		}
	}
	snapshots, err := n.client.SnapshotService("overlayfs").Usage(n.Ctx, "task1")
	if err == nil {
		t.Errorf("snapshot: got %+v, want none", snapshots)
	}
}
