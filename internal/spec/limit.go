package spec

import (
	"fmt"

	swarmv1 "swarm/proto/swarm/v1"
)

// Limits holds what can change of a task while its container runs: limits of resources, and the
// versions of some secrets and configs. Equal values need no change of the container.
type Limits struct {
	NanoCPUs, Memory, Pids int64
	// ReservedCPUs and ReservedMemory are reserved by placement. The kernel gets the reserved
	// memory too.
	ReservedCPUs, ReservedMemory int64
	Swap                         int64
	// SwapSet is true if Swap was set. Otherwise the default follows the memory limit.
	SwapSet bool
	// Data names the versions of the secrets and configs whose files can be exchanged.
	Data string
}

// LimitsOf returns the limits of the tasks of a service.
func LimitsOf(s *swarmv1.ServiceSpec) Limits {
	r := s.GetTaskTemplate().GetResources()
	return Limits{
		NanoCPUs: r.GetLimits().GetNanoCpus(), Memory: r.GetLimits().GetMemoryBytes(), Pids: r.GetLimits().GetPids(),
		ReservedCPUs: r.GetReservations().GetNanoCpus(), ReservedMemory: r.GetReservations().GetMemoryBytes(),
		Swap: r.GetSwapBytes(), SwapSet: r != nil && r.SwapBytes != nil,
		Data: exchangedData(s),
	}
}

// exchangedData returns the part of the references that can change while the container runs.
func exchangedData(s *swarmv1.ServiceSpec) string {
	var out []byte
	for ref := range DataReferences(s) {
		if Exchanged(ref) {
			out = fmt.Appendf(out, "%d", ref.GetNumber())
		}
		if Exchanged(ref) || ref.GetKeepPrevious() != nil {
			out = fmt.Appendf(out, "/%d ", ref.GetPrevious())
		}
	}
	return string(out)
}

// withoutLimits returns a copy of the template without the fields of Limits.
func withoutLimits(t *swarmv1.TaskSpec) *swarmv1.TaskSpec {
	t = t.CloneVT()
	for ref := range DataReferences(&swarmv1.ServiceSpec{TaskTemplate: t}) {
		ref.Previous, ref.PreviousUntil = 0, nil
		if Exchanged(ref) {
			ref.Number = 0
		}
	}
	r := t.GetResources()
	if r == nil {
		return t
	}
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
