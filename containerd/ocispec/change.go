//go:build linux

package ocispec

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Change returns the update for runc that replaces all limits of a running container by those of r,
// which SetLimits has set. runc's update keeps the limits of fields that are not set, so Change
// also sets the fields that have no limit in r. runc chooses the order in which the kernel gets the
// limits of memory and swap. runc refuses a memory limit below the current use, because the kernel
// would kill processes of the container.
func Change(r *specs.LinuxResources, host Host) *specs.LinuxResources {
	quota, period, pids, check := int64(-1), uint64(cpuPeriod), int64(-1), true
	memory, soft := int64(-1), int64(-1)
	out := &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Quota: &quota, Period: &period},
		Pids:   &specs.LinuxPids{Limit: &pids},
		Memory: &specs.LinuxMemory{Limit: &memory, Reservation: &soft, CheckBeforeUpdate: &check},
	}
	if host.SwapLimit {
		swap := int64(-1)
		out.Memory.Swap = &swap
	}
	if r.CPU != nil {
		out.CPU = r.CPU
	}
	if r.Pids != nil {
		out.Pids = r.Pids
	}
	if m := r.Memory; m != nil && m.Limit != nil {
		out.Memory.Limit, out.Memory.Swap = m.Limit, m.Swap
	}
	switch m := r.Memory; {
	case m != nil && m.Reservation != nil:
		out.Memory.Reservation = m.Reservation
	case host.Cgroup2:
		// On the unified hierarchy the reservation is memory.low, which is a protection: -1 would
		// protect all memory, and runc skips 0.
		soft = 0
		out.Unified = map[string]string{"memory.low": "0"}
	}
	return out
}
