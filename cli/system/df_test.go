package system_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/cli/clitest"
	swarmv1 "swarm/proto/swarm/v1"
)

func TestSystemDf(t *testing.T) {
	now := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }
	image := func(name, digest string, containers uint32, size, unique int64) *swarmv1.HeldImage {
		return &swarmv1.HeldImage{
			Image: &swarmv1.Image{Name: name, Digest: "sha256:" + digest + "0123456789abcdef"}, Containers: containers,
			Since: ago(time.Hour), Size: size, Unique: unique,
		}
	}
	server := &clitest.Server{Usage: []*swarmv1.NodeUsage{
		{NodeId: "n1", Hostname: "host1", Usage: &swarmv1.DiskUsageResponse{
			Path: "/var/lib/swarm", Total: 100e9, Free: 40e9, ImagesSize: 250e6,
			Images: []*swarmv1.HeldImage{
				image("docker.io/library/web:1", "aaaa", 2, 200e6, 50e6), image("docker.io/library/old:7", "bbbb", 0, 150e6, 50e6),
			},
			Containers: []*swarmv1.HeldContainer{
				{TaskId: "task1", Running: true, Size: 1e6}, {TaskId: "task2", Size: 2e6}, {TaskId: "task3", Dead: true, Size: 3e6},
			},
			Volumes: []*swarmv1.HeldVolume{{Name: "data", Links: 1, Size: 5e6}, {Name: "left", Size: 6e6}},
			Logs:    []*swarmv1.HeldLog{{TaskId: "task1", Size: 7e3}, {TaskId: "task0", Size: 8e3, Retired: ago(2 * time.Hour)}},
		}},
		{NodeId: "n2", Hostname: "host2", Error: "connection refused"},
	}}
	for name, args := range map[string][]string{
		"system-df": {"system", "df"}, "system-df-verbose": {"system", "df", "-v"}, "system-df-json": {"system", "df", "-v", "--format", "json"},
	} {
		r := clitest.Run{Server: server, Now: now}.Run(t, args...)
		clitest.Golden(t, name+".golden", r.Out)
		if want := "node host2 is not counted: connection refused\n"; r.Code != 0 || r.ErrOut != want {
			t.Errorf("%v: code %d, said %q, want 0 and %q", args, r.Code, r.ErrOut, want)
		}
	}
}
