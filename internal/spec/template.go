package spec

import (
	"swarm/internal/publish"
	swarmv1 "swarm/proto/swarm/v1"
)

// SameTasks says whether two specs make tasks that need not be replaced: the task templates are equal but for what Limits
// has, which a running container can be given, and so is what of the endpoint a running task is bound to, its ports of
// mode=host. Labels, replicas and policies may differ.
func SameTasks(a, b *swarmv1.ServiceSpec) bool {
	ta, tb := a.GetTaskTemplate(), b.GetTaskTemplate()
	if !ta.EqualVT(tb) && !unlimited(ta).EqualVT(unlimited(tb)) {
		// Placement and the restart policy rule where and whether the next task starts; Docker replaces tasks for them
		// too, and so do we: the revision of a task says by which rules it was placed.
		return false
	}
	// A container gets its lease when it is made.
	return a.GetSingleWriter() == b.GetSingleWriter() && sameHostPorts(a.GetEndpointSpec().GetPorts(), b.GetEndpointSpec().GetPorts())
}

func sameHostPorts(a, b []*swarmv1.PortConfig) bool {
	a, b = hostPorts(a), hostPorts(b)
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].EqualVT(b[i]) {
			return false
		}
	}
	return true
}

func hostPorts(ports []*swarmv1.PortConfig) []*swarmv1.PortConfig {
	var out []*swarmv1.PortConfig
	for _, p := range ports {
		if !publish.ByMesh(p) {
			out = append(out, p)
		}
	}
	return out
}

// NextRevision makes the revision that follows prev (nil: the first) with a spec returned by Service. Its template is
// prev's own when the tasks of prev may stay, so that scaling replaces nothing. last is the highest number the service
// ever had: after a rollback it is above prev's, and numbers are never used twice.
func NextRevision(serviceID string, prev *swarmv1.Revision, last uint64, s *swarmv1.ServiceSpec, actor string) *swarmv1.Revision {
	r := &swarmv1.Revision{ServiceId: serviceID, Number: max(last, prev.GetNumber()) + 1, Spec: s, Actor: actor}
	r.Template = r.Number
	if prev != nil && SameTasks(prev.GetSpec(), s) {
		r.Template = prev.GetTemplate()
	}
	return r
}
