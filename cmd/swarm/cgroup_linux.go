package main

import (
	"strings"

	"github.com/containerd/cgroups/v3"

	"swarm/cli"
	"swarm/install"
)

// cgroupParent holds the containers' cgroups where runc makes them.
const cgroupParent = "/swarm"

// cgroupOf fills in the cgroup driver, and the containers' parent. The driver is systemd's where systemd owns the one
// hierarchy that there is, as in Docker; a parent that is given decides.
func cgroupOf(o cli.DaemonOptions, systemd, unified bool) (driver, parent string) {
	driver, parent = o.CgroupDriver, o.CgroupParent
	if driver == "" {
		driver = cli.CgroupFS
		if strings.HasSuffix(parent, ".slice") || parent == "" && systemd && unified {
			driver = cli.CgroupSystemd
		}
	}
	switch {
	case parent != "":
	case driver == cli.CgroupSystemd:
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
