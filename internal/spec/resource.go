package spec

import (
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// MinNanoCPUs is the smallest share of a CPU, as in Docker. The kernel cannot divide a CPU
	// further.
	MinNanoCPUs = 1_000_000
	// MinMemory is the smallest memory limit in bytes, as in Docker. A container needs that much to
	// start.
	MinMemory = 4 << 20
)

func checkResources(r *swarmv1.ResourceRequirements) error {
	if err := firstError(
		checkAmounts("limit", r.GetLimits()),
		checkAmounts("reservation", r.GetReservations()),
		checkGeneric(r.GetReservations().GetGeneric())); err != nil {
		return err
	}
	lim, res := r.GetLimits(), r.GetReservations()
	switch {
	case len(lim.GetGeneric()) > 0:
		return invalid("generic resources cannot be limited: reserve them")
	case res.GetPids() != 0:
		return invalid("pids cannot be reserved: limit them")
	case lim.GetMemoryBytes() > 0 && res.GetMemoryBytes() > lim.GetMemoryBytes():
		return invalid("memory reservation %d is above the limit %d: reserve at most the limit", res.GetMemoryBytes(), lim.GetMemoryBytes())
	case lim.GetNanoCpus() > 0 && res.GetNanoCpus() > lim.GetNanoCpus():
		return invalid("CPU reservation %g is above the limit %g: reserve at most the limit", cpus(res.GetNanoCpus()), cpus(lim.GetNanoCpus()))
	}
	if r != nil && r.SwapBytes != nil && r.GetSwapBytes() < -1 {
		return invalid("swap %d is negative: use -1 for no limit", r.GetSwapBytes())
	}
	if r != nil && r.MemorySwappiness != nil && (r.GetMemorySwappiness() < -1 || r.GetMemorySwappiness() > 100) {
		return invalid("memory swappiness %d is out of range: use 0 to 100, or -1 for the node's own", r.GetMemorySwappiness())
	}
	return nil
}

func checkAmounts(what string, r *swarmv1.Resources) error {
	if c := r.GetNanoCpus(); c != 0 && c < MinNanoCPUs {
		return invalid("CPU %s %g is too small: at least %g is needed", what, cpus(c), cpus(MinNanoCPUs))
	}
	if m := r.GetMemoryBytes(); m != 0 && m < MinMemory {
		return invalid("memory %s of %d bytes is too small: at least 4 MiB are needed", what, m)
	}
	if r.GetPids() < 0 {
		return invalid("pids %s %d is negative: use 0 for no limit", what, r.GetPids())
	}
	return nil
}

func checkGeneric(list []*swarmv1.GenericResource) error {
	seen := make(map[string]bool, len(list))
	for _, g := range list {
		switch {
		case g.GetKind() == "":
			return invalid("generic resource has no kind: write it like gpu=2")
		case g.GetNamed() != "":
			return invalid("generic resource %s asks for one by name, %s: ask for an amount, %s=1", quote(g.GetKind()), quote(g.GetNamed()), g.GetKind())
		case g.GetValue() < 1:
			return invalid("generic resource %s asks for %d: ask for 1 or more", quote(g.GetKind()), g.GetValue())
		case seen[g.GetKind()]:
			return invalid("generic resource %s is asked for twice: add the amounts", quote(g.GetKind()))
		}
		seen[g.GetKind()] = true
	}
	return nil
}

func cpus(nano int64) float64 { return float64(nano) / 1e9 }
