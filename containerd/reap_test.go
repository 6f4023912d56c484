//go:build linux

package containerd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCgroupDirs(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{
		"memory/swarm/id1", "pids/swarm/id1", "pids/swarm/id2",
		"swarm.slice/swarm-id3.scope", "swarm.slice/swarm-web.slice/swarm-id4.scope", "pids/swarm.slice/swarm-id4.scope",
	} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		cgroup, id string
		want       []string
	}{
		{"/swarm/id1", "id1", []string{"memory/swarm/id1", "pids/swarm/id1"}},
		{"/swarm", "id1", nil},
		{"", "id1", nil},
		{"swarm.slice:swarm:id3", "id3", []string{"swarm.slice/swarm-id3.scope"}},
		{"swarm-web.slice:swarm:id4", "id4", []string{"pids/swarm.slice/swarm-id4.scope", "swarm.slice/swarm-web.slice/swarm-id4.scope"}},
		{"/swarm/id9", "id9", nil},
	} {
		var want []string
		for _, dir := range c.want {
			want = append(want, filepath.Join(root, dir))
		}
		if diff := cmp.Diff(want, cgroupDirs(root, c.cgroup, c.id)); diff != "" {
			t.Errorf("%s, %s (-want +got):\n%s", c.cgroup, c.id, diff)
		}
	}
}

// Processes in a cgroup, and in cgroups below it, are killed.
func TestReap(t *testing.T) {
	parent := cgroupRoot
	if _, err := os.Stat(filepath.Join(parent, "pids")); err == nil {
		parent = filepath.Join(parent, "pids")
	}
	dir := filepath.Join(parent, "swarm-reap-"+strconv.Itoa(os.Getpid()))
	inner := filepath.Join(dir, "inner")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Skip("no cgroup can be made here: ", err)
	}
	t.Cleanup(func() { _ = reap(t.Context(), dir) })
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := os.WriteFile(filepath.Join(inner, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := reap(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || err.Error() != "signal: killed" {
		t.Errorf("its process ended with %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the cgroup is left: %v", err)
	}
	if err := reap(t.Context(), dir); err != nil {
		t.Errorf("again: %v", err)
	}
}
