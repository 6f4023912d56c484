//go:build linux

package observe

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"swarm/doctor"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	mountInfo  = "/proc/self/mountinfo"
)

// cgroup finds the controllers and tries to make a cgroup below each.
func cgroup() doctor.Cgroup {
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		c := doctor.Cgroup{Version: 2, Controllers: map[string]string{}}
		text, _ := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers")) // without the file, no controller can be used
		written := reason(tryGroup(cgroupRoot))
		for _, name := range strings.Fields(string(text)) {
			c.Controllers[name] = written
		}
		return c
	}
	text, err := os.ReadFile(mountInfo)
	if err != nil {
		return doctor.Cgroup{}
	}
	mounts := v1Mounts(string(text))
	if len(mounts) == 0 {
		return doctor.Cgroup{}
	}
	c := doctor.Cgroup{Version: 1, Controllers: map[string]string{}}
	for name, path := range mounts {
		c.Controllers[name] = reason(tryGroup(path))
	}
	return c
}

// v1Mounts finds where each controller of cgroup v1 is mounted. A line of mountinfo (proc(5)) has
// the mount point in its fifth field, and after a single "-" the type, the source and the options
// of the super block, which include the controllers.
func v1Mounts(info string) map[string]string {
	mounts := map[string]string{}
	for line := range strings.Lines(info) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 || right[0] != "cgroup" {
			continue
		}
		for option := range strings.SplitSeq(right[2], ",") {
			switch option {
			case "rw", "ro", "xattr", "noprefix", "clone_children":
			default:
				if !strings.Contains(option, "=") {
					mounts[option] = left[4]
				}
			}
		}
	}
	return mounts
}

// tryGroup makes a cgroup below parent and removes it.
func tryGroup(parent string) error {
	dir := filepath.Join(parent, fmt.Sprintf("swarm-doctor-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Remove(dir)
}
