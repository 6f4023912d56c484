package main

import (
	"strings"

	"github.com/containerd/cgroups/v3"

	"swarm/cli/daemon"
	"swarm/install"
)

// cgroupParent holds the containers' cgroups where runc makes them.
const cgroupParent = "/swarm"

// cgroupOf fills in the cgroup driver, and the containers' parent. The driver is systemd's where systemd owns the one
// hierarchy that there is, as in Docker; a parent that is given decides.
func cgroupOf(o daemon.Options, systemd, unified bool) (driver, parent string) {
	driver, parent = o.CgroupDriver, o.CgroupParent
	if driver == "" {
		driver = daemon.CgroupFS
		if strings.HasSuffix(parent, ".slice") || parent == "" && systemd && unified {
			driver = daemon.CgroupSystemd
		}
	}
	switch {
	case parent != "":
	case driver == daemon.CgroupSystemd:
		parent = install.Slice
	default:
		parent = cgroupParent
	}
	return driver, parent
}

func cgroupVersion() string {
	if cgroups.Mode() == cgroups.Unified {
		return "2"
	}
	return "1"
}
