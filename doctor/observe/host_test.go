//go:build linux

package observe

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"swarm/doctor"
)

func TestV1Mounts(t *testing.T) {
	got := v1Mounts(`25 21 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
26 25 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
27 25 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
30 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:11 - cgroup cgroup rw,cpu,cpuacct
31 25 0:28 /
32 25 0:29 / /sys/fs/cgroup/memory rw master:1 propagate_from:2 - cgroup cgroup rw,memory
`)
	want := map[string]string{
		"cpu": "/sys/fs/cgroup/cpu,cpuacct", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "memory": "/sys/fs/cgroup/memory",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestNameServers(t *testing.T) {
	got := nameServers("# nameserver 192.0.2.9\nsearch example.org\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # second\nnameserver\n")
	if diff := cmp.Diff([]string{"192.0.2.1", "2001:db8::1"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDisk_LooksAtTheNearestFolderAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	d := stateDisk(filepath.Join(dir, "not", "yet"))
	if d.Looked != dir || d.Problem != "" || d.Total == 0 || d.SyncMedian <= 0 || d.SyncSlowest < d.SyncMedian {
		t.Errorf("got %+v", d)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestDisk_AFolderThatCannotBeWritten(t *testing.T) {
	if d := stateDisk("/proc/swarm"); d.Problem == "" {
		t.Errorf("got %+v, want a problem", d)
	}
}

func TestPort(t *testing.T) {
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	number := uint16(ln.Addr().(*net.TCPAddr).Port)
	if p := port(t.Context(), doctor.Port{Network: "tcp", Number: number}); p.Taken != "address already in use" {
		t.Errorf("got %+v while it is taken", p)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if p := port(t.Context(), doctor.Port{Network: "tcp", Number: number}); p.Taken != "" {
		t.Errorf("got %+v when it is free", p)
	}
}
