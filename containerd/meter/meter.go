//go:build linux

// Package meter reads what the containers of this host use, as containerd's shims read it from
// cgroups of version 1 or 2. It counts as Docker does.
//
// Its caller is package containerd. It keeps no state and starts no goroutine.
package meter

import (
	"context"
	"fmt"
	"strings"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	tasks "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"

	swarmv1 "swarm/proto/swarm/v1"
)

// Usage returns what the containers with these ids use. Containers that do not run are missing in
// the result. It does not know the traffic of containers. If a container has no limit of memory,
// the result has the largest number of its version of cgroups.
func Usage(ctx context.Context, c tasks.TasksClient, ids []string) ([]*swarmv1.TaskUsage, error) {
	if len(ids) == 0 {
		return nil, nil // Without filters, containerd would return all.
	}
	filters := make([]string, len(ids))
	for i, id := range ids {
		filters[i] = "id==" + id
	}
	r, err := c.Metrics(ctx, &tasks.MetricsRequest{Filters: filters})
	if err != nil {
		return nil, fmt.Errorf("metrics of containers: %w", errgrpc.ToNative(err))
	}
	out := make([]*swarmv1.TaskUsage, 0, len(r.Metrics))
	for _, m := range r.Metrics {
		u, err := parse(m)
		if err != nil {
			return nil, fmt.Errorf("metrics of container %s: %w", m.GetID(), err)
		}
		out = append(out, u)
	}
	return out, nil
}

func parse(m *types.Metric) (*swarmv1.TaskUsage, error) {
	data, err := typeurl.UnmarshalAny(m.GetData())
	if err != nil {
		return nil, err
	}
	u := &swarmv1.TaskUsage{TaskId: m.GetID(), Clock: m.GetTimestamp().AsTime().UnixNano()}
	switch s := data.(type) {
	case *cgroup1.Metrics:
		version1(u, s)
	case *cgroup2.Metrics:
		version2(u, s)
	default:
		return nil, fmt.Errorf("the shim sends %T", data)
	}
	return u, nil
}

func version1(u *swarmv1.TaskUsage, s *cgroup1.Metrics) {
	u.Cpu = s.GetCPU().GetUsage().GetTotal()
	memory := s.GetMemory()
	u.Memory = withoutCache(memory.GetUsage().GetUsage(), memory.GetTotalInactiveFile())
	u.MemoryLimit = memory.GetUsage().GetLimit()
	u.Pids = s.GetPids().GetCurrent()
	for _, e := range s.GetBlkio().GetIoServiceBytesRecursive() {
		switch strings.ToLower(e.GetOp()) {
		case "read":
			u.BlockRead += e.GetValue()
		case "write":
			u.BlockWritten += e.GetValue()
		}
	}
}

func version2(u *swarmv1.TaskUsage, s *cgroup2.Metrics) {
	u.Cpu = s.GetCPU().GetUsageUsec() * 1000
	memory := s.GetMemory()
	u.Memory = withoutCache(memory.GetUsage(), memory.GetInactiveFile())
	u.MemoryLimit = memory.GetUsageLimit()
	u.Pids = s.GetPids().GetCurrent()
	for _, e := range s.GetIo().GetUsage() {
		u.BlockRead += e.GetRbytes()
		u.BlockWritten += e.GetWbytes()
	}
}

// withoutCache returns the memory in use without the cache of files that is not in use, which the
// kernel can drop at any time. The two numbers were not read at the same moment.
func withoutCache(used, inactive uint64) uint64 {
	if inactive >= used {
		return used
	}
	return used - inactive
}
