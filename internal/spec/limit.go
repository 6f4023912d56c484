package spec

import (
	swarmv1 "swarm/proto/swarm/v1"
)

// Limits are what of a task's resources can change while its container runs. Equal values mean equal limits.
type Limits struct {
	NanoCPUs, Memory, Pids int64
	// Reserved by placement; the kernel sees the memory as well.
	ReservedCPUs, ReservedMemory int64
	Swap                         int64
	// SwapSet: Swap is not the default, which follows the memory.
	SwapSet bool
}

// LimitsOf reads the limits of a service's tasks.
func LimitsOf(s *swarmv1.ServiceSpec) Limits {
	r := s.GetTaskTemplate().GetResources()
	return Limits{
		NanoCPUs: r.GetLimits().GetNanoCpus(), Memory: r.GetLimits().GetMemoryBytes(), Pids: r.GetLimits().GetPids(),
		ReservedCPUs: r.GetReservations().GetNanoCpus(), ReservedMemory: r.GetReservations().GetMemoryBytes(),
		Swap: r.GetSwapBytes(), SwapSet: r != nil && r.SwapBytes != nil,
	}
}

// unlimited is a copy of the template without its limits.
func unlimited(t *swarmv1.TaskSpec) *swarmv1.TaskSpec {
	if t.GetResources() == nil {
		return t
	}
	t = t.CloneVT()
	r := t.Resources
	r.Limits, r.SwapBytes = nil, nil
	if r.Reservations != nil {
		// Generic resources were handed out with the task's place.
		r.Reservations = &swarmv1.Resources{Generic: r.Reservations.Generic}
		if len(r.Reservations.Generic) == 0 {
			r.Reservations = nil
		}
	}
	if r.Reservations == nil && r.MemorySwappiness == nil {
		t.Resources = nil
	}
	return t
}
