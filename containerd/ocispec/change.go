//go:build linux

package ocispec

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Change says to runc how a running container comes to the limits of r, which SetLimits wrote,
// whatever it has now. To runc's update, what is not named stays as it is: so what is not limited
// is said, too. In which order the kernel takes memory and swap is runc's matter. A limit below
// what the container uses is refused, rather than have its processes killed.
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
		// There the reservation is memory.low, a protection: -1 would mean all memory, and runc
		// leaves 0 out.
		soft = 0
		out.Unified = map[string]string{"memory.low": "0"}
	}
	return out
}
