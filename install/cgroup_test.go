//go:build linux

package install

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestChooseCgroup(t *testing.T) {
	for _, tc := range []struct {
		driver, parent         string
		systemd, unified       bool
		wantDriver, wantParent string
	}{
		{wantDriver: "cgroupfs", wantParent: "/swarm"},
		{systemd: true, wantDriver: "cgroupfs", wantParent: "/swarm"},
		{unified: true, wantDriver: "cgroupfs", wantParent: "/swarm"},
		{systemd: true, unified: true, wantDriver: "systemd", wantParent: "swarm.slice"},
		{driver: "cgroupfs", systemd: true, unified: true, wantDriver: "cgroupfs", wantParent: "/swarm"},
		{driver: "systemd", systemd: true, wantDriver: "systemd", wantParent: "swarm.slice"},
		{parent: "/mine", systemd: true, unified: true, wantDriver: "cgroupfs", wantParent: "/mine"},
		{parent: "mine.slice", systemd: true, wantDriver: "systemd", wantParent: "mine.slice"},
	} {
		driver, parent := chooseCgroup(tc.driver, tc.parent, tc.systemd, tc.unified)
		if driver != tc.wantDriver || parent != tc.wantParent {
			t.Errorf("%+v: got %s below %s", tc, driver, parent)
		}
	}
}

// Only the default parent cgroups are removed. A cgroup with a container in it stays.
func TestRemoveCgroups(t *testing.T) {
	h := New(Config{Root: t.TempDir()})
	group := func(path string) string {
		t.Helper()
		path = h.path(filepath.Join("/sys/fs/cgroup", path))
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	memory, other, v2 := group("memory/swarm"), group("memory/docker"), group("swarm")
	removed, err := h.removeCgroups()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{memory, v2}, removed); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("a cgroup of another program: %v", err)
	}
	group("swarm/task")
	removed, err = h.removeCgroups()
	if !errors.Is(err, unix.ENOTEMPTY) || !strings.Contains(err.Error(), "a container is left in it") || len(removed) > 0 {
		t.Errorf("with a container: removed %v, %v", removed, err)
	}
}
