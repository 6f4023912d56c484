//go:build linux

package meter

import (
	"context"
	"testing"
	"time"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

// shims answers a request for metrics with one metric.
type shims struct {
	tasks.TasksClient
	data any
}

func (s shims) Metrics(_ context.Context, r *tasks.MetricsRequest, _ ...grpc.CallOption) (*tasks.MetricsResponse, error) {
	a, err := typeurl.MarshalAny(s.data)
	if err != nil {
		return nil, err
	}
	return &tasks.MetricsResponse{Metrics: []*types.Metric{{
		ID: r.Filters[0][len("id=="):], Timestamp: timestamppb.New(time.Unix(0, 7)), Data: &anypb.Any{TypeUrl: a.GetTypeUrl(), Value: a.GetValue()},
	}}}, nil
}

func TestUsage(t *testing.T) {
	for name, tc := range map[string]struct {
		data any
		want *swarmv1.TaskUsage
	}{
		"version 1": {
			&cgroup1.Metrics{
				CPU:    &cgroup1.CPUStat{Usage: &cgroup1.CPUUsage{Total: 11}},
				Memory: &cgroup1.MemoryStat{Usage: &cgroup1.MemoryEntry{Usage: 100, Limit: 1000}, TotalInactiveFile: 30, InactiveFile: 1},
				Pids:   &cgroup1.PidsStat{Current: 3},
				Blkio: &cgroup1.BlkIOStat{IoServiceBytesRecursive: []*cgroup1.BlkIOEntry{
					{Op: "Read", Value: 5}, {Op: "Write", Value: 6}, {Op: "Total", Value: 11}, {Op: "Read", Value: 1},
				}},
			},
			&swarmv1.TaskUsage{TaskId: "t1", Clock: 7, Cpu: 11, Memory: 70, MemoryLimit: 1000, Pids: 3, BlockRead: 6, BlockWritten: 6},
		},
		"version 2": {
			&cgroup2.Metrics{
				CPU: &cgroup2.CPUStat{UsageUsec: 11}, Pids: &cgroup2.PidsStat{Current: 3},
				Memory: &cgroup2.MemoryStat{Usage: 100, UsageLimit: 1000, InactiveFile: 30},
				Io:     &cgroup2.IOStat{Usage: []*cgroup2.IOEntry{{Rbytes: 1, Wbytes: 2}, {Rbytes: 3, Wbytes: 4}}},
			},
			&swarmv1.TaskUsage{TaskId: "t1", Clock: 7, Cpu: 11000, Memory: 70, MemoryLimit: 1000, Pids: 3, BlockRead: 4, BlockWritten: 6},
		},
		"more cache than memory": {
			&cgroup2.Metrics{Memory: &cgroup2.MemoryStat{Usage: 10, InactiveFile: 30}},
			&swarmv1.TaskUsage{TaskId: "t1", Clock: 7, Memory: 10},
		},
	} {
		got, err := Usage(t.Context(), shims{data: tc.data}, []string{"t1"})
		if diff := cmp.Diff([]*swarmv1.TaskUsage{tc.want}, got, protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("%s: %v, -want +got:\n%s", name, err, diff)
		}
	}
	if got, err := Usage(t.Context(), shims{}, nil); err != nil || got != nil {
		t.Errorf("no containers: got %v, %v", got, err)
	}
}
