//go:build linux

package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/cgroups/v3"
)

// The cgroup drivers say which program makes the containers' cgroups.
const (
	// CgroupFS: runc makes them in the cgroup file system.
	CgroupFS = "cgroupfs"
	// CgroupSystemd: systemd makes them as scopes below a slice.
	CgroupSystemd = "systemd"
)

// cgroupParent is the parent of the containers' cgroups with the driver cgroupfs.
const cgroupParent = "/swarm"

// Cgroup returns the cgroup driver and the parent of the containers' cgroups. It replaces empty
// arguments by defaults. As in Docker, the default driver is systemd if systemd is the init and the
// host has only cgroup v2. If a parent is given, the form of the parent decides about the driver.
func (h *Host) Cgroup(driver, parent string) (filledDriver, filledParent string) {
	return chooseCgroup(driver, parent, h.Systemd(), unified())
}

func chooseCgroup(driver, parent string, systemd, unified bool) (filledDriver, filledParent string) {
	if driver == "" {
		driver = CgroupFS
		if strings.HasSuffix(parent, ".slice") || parent == "" && systemd && unified {
			driver = CgroupSystemd
		}
	}
	switch {
	case parent != "":
	case driver == CgroupSystemd:
		parent = Slice
	default:
		parent = cgroupParent
	}
	return driver, parent
}

func unified() bool { return cgroups.Mode() == cgroups.Unified }

// CgroupVersion returns "2" if the host has cgroup v2 only, and else "1".
func CgroupVersion() string {
	if unified() {
		return "2"
	}
	return "1"
}

// removeCgroups removes the default parent of the containers' cgroups, from each hierarchy of
// cgroup v1 or from that of v2. It returns the folders that it has removed. It fails if a container
// is left.
func (h *Host) removeCgroups() ([]string, error) {
	var removed []string
	for _, pattern := range []string{"/sys/fs/cgroup/*" + cgroupParent, "/sys/fs/cgroup" + cgroupParent} {
		groups, err := filepath.Glob(h.path(pattern))
		if err != nil {
			return removed, err
		}
		for _, group := range groups {
			err := os.Remove(group)
			switch {
			case errors.Is(err, fs.ErrNotExist): // removed by another name of its controller
			case err != nil:
				return removed, fmt.Errorf("%w: a container is left in it", err)
			default:
				removed = append(removed, group)
			}
		}
	}
	return removed, nil
}
