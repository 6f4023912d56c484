package spec

import (
	"strings"
	"unicode"

	"swarm/internal/publish"
	swarmv1 "swarm/proto/swarm/v1"
)

// SameTasks reports whether the tasks of spec a can stay when the spec becomes b. The task
// templates must be equal except for the fields of Limits, which can change in a running container.
// The ports with mode=host and the single-writer flag must be equal, because a running task is
// bound to them. Labels, replicas and policies may differ.
func SameTasks(a, b *swarmv1.ServiceSpec) bool {
	ta, tb := a.GetTaskTemplate(), b.GetTaskTemplate()
	if !ta.EqualVT(tb) && !withoutLimits(a).EqualVT(withoutLimits(b)) {
		// A change of the restart policy alone is a difference too, as in Docker, although it
		// affects only whether the next task starts.
		return false
	}
	// The lease of a single-writer task is set when its container is created.
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

// Author says who writes a revision, and why.
type Author struct{ Actor, Message string }

// maxMessage is the longest message of a revision, in bytes.
const maxMessage = 500

// CheckMessage returns an error if a text cannot be the message of a revision.
func CheckMessage(text string) error {
	if len(text) > maxMessage {
		return invalid("message has %d bytes: at most %d are allowed", len(text), maxMessage)
	}
	if strings.ContainsFunc(text, unicode.IsControl) {
		return invalid("message %s has a control character: write one line of text", quote(text))
	}
	return nil
}

// NextRevision returns the revision after prev (nil: the first revision) for a spec that Service
// returned. Its Template is the Template of prev if the tasks of prev may stay, so that scaling
// replaces no task. last is the highest number that the service ever had. After a rollback it is
// above the number of prev, and a number is never used twice.
func NextRevision(serviceID string, prev *swarmv1.Revision, last uint64, s *swarmv1.ServiceSpec, by Author) *swarmv1.Revision {
	r := &swarmv1.Revision{ServiceId: serviceID, Number: max(last, prev.GetNumber()) + 1, Spec: s, Actor: by.Actor, Message: by.Message}
	r.Template = r.Number
	if prev != nil && SameTasks(prev.GetSpec(), s) {
		r.Template = prev.GetTemplate()
	}
	return r
}
