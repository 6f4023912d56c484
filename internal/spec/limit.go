package spec

import (
	swarmv1 "swarm/proto/swarm/v1"
)

// Limits holds the resources of a task that can change while its container runs. Equal values mean
// equal limits.
type Limits struct {
	NanoCPUs, Memory, Pids int64
	// ReservedCPUs and ReservedMemory are reserved by placement. The kernel gets the reserved
	// memory too.
	ReservedCPUs, ReservedMemory int64
	Swap                         int64
	// SwapSet is true if Swap was set. Otherwise the default follows the memory limit.
	SwapSet bool
}

// LimitsOf returns the limits of the tasks of a service.
func LimitsOf(s *swarmv1.ServiceSpec) Limits {
	r := s.GetTaskTemplate().GetResources()
	return Limits{
		NanoCPUs: r.GetLimits().GetNanoCpus(), Memory: r.GetLimits().GetMemoryBytes(), Pids: r.GetLimits().GetPids(),
		ReservedCPUs: r.GetReservations().GetNanoCpus(), ReservedMemory: r.GetReservations().GetMemoryBytes(),
		Swap: r.GetSwapBytes(), SwapSet: r != nil && r.SwapBytes != nil,
	}
}

// withoutLimits returns a copy of the template without the fields of Limits.
func withoutLimits(t *swarmv1.TaskSpec) *swarmv1.TaskSpec {
	if t.GetResources() == nil {
		return t
	}
	t = t.CloneVT()
	r := t.Resources
	r.Limits, r.SwapBytes = nil, nil
	if r.Reservations != nil {
		// Keep generic resources: they were allocated when the task was placed.
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
