//go:build linux

package ocispec

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// cpuPeriod is the default of the kernel, in microseconds.
	cpuPeriod = 100_000
	// minQuota is the smallest quota that the kernel accepts, in microseconds.
	minQuota = 1_000
)

func resources(s *specs.Spec, in Input) error {
	s.Linux.Resources = &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
	}
	SetLimits(s.Linux.Resources, in.Container.Revision.GetSpec().GetTaskTemplate().GetResources(), in.Host)
	return nil
}

// SetLimits sets the limits that req asks for in r.
func SetLimits(r *specs.LinuxResources, req *swarmv1.ResourceRequirements, host Host) {
	limits := req.GetLimits()
	r.CPU, r.Pids, r.Memory = nil, nil, memory(req, host)
	if nano := limits.GetNanoCpus(); nano > 0 {
		quota, period := max(nano*cpuPeriod/1e9, minQuota), uint64(cpuPeriod)
		r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	if n := limits.GetPids(); n > 0 {
		r.Pids = &specs.LinuxPids{Limit: &n}
	}
}

func memory(req *swarmv1.ResourceRequirements, host Host) *specs.LinuxMemory {
	var m specs.LinuxMemory
	if limit := req.GetLimits().GetMemoryBytes(); limit > 0 {
		m.Limit = &limit
		if host.SwapLimit {
			m.Swap = swap(limit, req.SwapBytes)
		}
	}
	if soft := req.GetReservations().GetMemoryBytes(); soft > 0 {
		m.Reservation = &soft
	}
	// The unified hierarchy has no swappiness.
	if req != nil && req.MemorySwappiness != nil && *req.MemorySwappiness >= 0 && !host.Cgroup2 {
		v := uint64(*req.MemorySwappiness)
		m.Swappiness = &v
	}
	if m == (specs.LinuxMemory{}) {
		return nil
	}
	return &m
}

// swap returns the limit of memory and swap together, in bytes; -1 is unlimited. As in Docker, a
// container without a setting may use as much swap as memory.
func swap(limit int64, asked *int64) *int64 {
	total := 2 * limit
	if asked != nil {
		total = limit + *asked
		if *asked < 0 {
			total = -1
		}
	}
	return &total
}

func devices(s *specs.Spec, in Input) error {
	c := in.Container.Spec()
	if c.GetPrivileged() {
		if err := oci.WithHostDevices(context.Background(), nil, nil, s); err != nil {
			return fmt.Errorf("devices of the host: %w", err)
		}
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	for _, d := range c.GetDevices() {
		access := cmp.Or(d.GetCgroupPermissions(), "rwm")
		if strings.Trim(access, "rwm") != "" {
			return fmt.Errorf("device %s: permissions %q have more than r, w and m: %w", d.GetPathOnHost(), access, errdefs.ErrInvalidArgument)
		}
		if !path.IsAbs(d.GetPathOnHost()) {
			return fmt.Errorf("device %q is not an absolute path: %w", d.GetPathOnHost(), errdefs.ErrInvalidArgument)
		}
		target := cmp.Or(d.GetPathInContainer(), d.GetPathOnHost())
		if err := oci.WithDevices(d.GetPathOnHost(), target, access)(context.Background(), nil, nil, s); err != nil {
			return fmt.Errorf("device %s: %w: %w", d.GetPathOnHost(), err, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
