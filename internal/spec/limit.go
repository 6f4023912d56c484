package spec

import (
	"fmt"

	swarmv1 "swarm/proto/swarm/v1"
)

// Limits holds what can change of a task while its container runs: limits of resources, the
// versions of some secrets and configs, and the placement. Equal values need no change of the
// container.
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
	// Placement has the constraints, the preferences and the limit per node of a service that is no
	// job. A task stays if its node satisfies the new constraints.
	Placement string
}

// LimitsOf returns the limits of the tasks of a service.
func LimitsOf(s *swarmv1.ServiceSpec) Limits {
	r := s.GetTaskTemplate().GetResources()
	return Limits{
		NanoCPUs: r.GetLimits().GetNanoCpus(), Memory: r.GetLimits().GetMemoryBytes(), Pids: r.GetLimits().GetPids(),
		ReservedCPUs: r.GetReservations().GetNanoCpus(), ReservedMemory: r.GetReservations().GetMemoryBytes(),
		Swap: r.GetSwapBytes(), SwapSet: r != nil && r.SwapBytes != nil,
		Data: exchangedData(s), Placement: changedPlacement(s),
	}
}

// changedPlacement returns the part of the placement that may change without a new task. A job
// has none: every change of its template starts another run.
func changedPlacement(s *swarmv1.ServiceSpec) string {
	p := s.GetTaskTemplate().GetPlacement()
	if p == nil || IsJob(s.GetMode()) {
		return ""
	}
	out := fmt.Append(nil, p.GetMaxReplicas())
	for _, c := range p.GetConstraints() {
		out = fmt.Appendf(out, " %q", c)
	}
	for _, pref := range p.GetPreferences() {
		out = fmt.Appendf(out, " spread=%q", pref.GetSpread().GetSpreadDescriptor())
	}
	return string(out)
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

// withoutLimits returns a copy of a service's template without the fields of Limits.
func withoutLimits(s *swarmv1.ServiceSpec) *swarmv1.TaskSpec {
	t := s.GetTaskTemplate().CloneVT()
	if p := t.GetPlacement(); p != nil && !IsJob(s.GetMode()) {
		if p.Constraints, p.Preferences, p.MaxReplicas = nil, nil, 0; p.EqualVT(&swarmv1.Placement{}) {
			t.Placement = nil
		}
	}
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
