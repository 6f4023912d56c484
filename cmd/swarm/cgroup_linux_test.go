package main

import (
	"testing"

	"swarm/cli/daemon"
)

func TestCgroupOf(t *testing.T) {
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
		driver, parent := cgroupOf(daemon.Options{CgroupDriver: tc.driver, CgroupParent: tc.parent}, tc.systemd, tc.unified)
		if driver != tc.wantDriver || parent != tc.wantParent {
			t.Errorf("%+v: got %s below %s", tc, driver, parent)
		}
	}
}
