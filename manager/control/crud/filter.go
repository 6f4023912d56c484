package crud

import (
	"slices"
	"strings"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
)

// Subject is what a filter sees of an object. A field that the object does not have is empty.
type Subject struct {
	ID string
	// Digest is that of an image, in hexadecimal digits without "sha256:". Users see it as its id.
	Digest string
	// Names are all names of the object. Filters ignore their case.
	Names []string
	// Labels are the sets of labels of the object.
	Labels []map[string]string
	// Services and Nodes have the ids of the services and nodes to which the object belongs.
	Services, Nodes []string
	// Role is that of a node. HasRole is true only for nodes.
	Role    swarmv1.NodeSpec_Role
	HasRole bool
	// Desired is the desired state of a task. IsTask is true only for tasks.
	Desired swarmv1.TaskState
	IsTask  bool
	// JobIteration is that of a task of a job.
	JobIteration uint64
	// Mode is that of a service, like "replicated".
	Mode string
}

// Matches reports whether a filter matches an object. Each field of the filter that has values must
// match. A field matches if one of its values matches; only of the labels, all must match. A field
// that the object does not have matches no value. A nil filter matches every object.
func Matches(f *swarmv1.Filter, s Subject) bool {
	if f == nil {
		return true
	}
	return fits(f.GetIds(), func(v string) bool { return v == s.ID }) &&
		fits(f.GetNames(), func(v string) bool { return s.isNamed(v) }) &&
		fits(f.GetPrefixes(), func(v string) bool { return s.begins(v) }) &&
		fits(f.GetIdPrefixes(), func(v string) bool { return s.idBegins(v) }) &&
		fits(f.GetNamePrefixes(), func(v string) bool { return s.nameBegins(v) }) &&
		labelled(f.GetLabels(), s.Labels) &&
		fits(f.GetServiceIds(), func(v string) bool { return slices.Contains(s.Services, v) }) &&
		fits(f.GetNodeIds(), func(v string) bool { return slices.Contains(s.Nodes, v) }) &&
		fits(f.GetRoles(), func(v swarmv1.NodeSpec_Role) bool { return s.HasRole && v == s.Role }) &&
		fits(f.GetDesiredStates(), func(v swarmv1.TaskState) bool { return s.IsTask && v == s.Desired }) &&
		fits(f.GetJobIterations(), func(v uint64) bool { return s.IsTask && v == s.JobIteration }) &&
		fits(f.GetModes(), func(v string) bool { return v == s.Mode })
}

// fits reports whether any value fits, or there are no values.
func fits[T any](values []T, fit func(T) bool) bool {
	return len(values) == 0 || slices.ContainsFunc(values, fit)
}

func (s Subject) begins(prefix string) bool { return s.idBegins(prefix) || s.nameBegins(prefix) }

func (s Subject) idBegins(prefix string) bool {
	return strings.HasPrefix(s.ID, prefix) || s.Digest != "" && strings.HasPrefix(s.Digest, strings.TrimPrefix(prefix, "sha256:"))
}

func (s Subject) isNamed(name string) bool {
	return slices.ContainsFunc(s.Names, func(n string) bool { return ident.Fold(n) == ident.Fold(name) })
}

func (s Subject) nameBegins(prefix string) bool {
	return slices.ContainsFunc(s.Names, func(n string) bool { return strings.HasPrefix(ident.Fold(n), ident.Fold(prefix)) })
}

// labelled reports whether one of the sets has every wanted label: KEY, or KEY=VALUE.
func labelled(want []string, have []map[string]string) bool {
	for _, w := range want {
		key, value, exact := strings.Cut(w, "=")
		if !slices.ContainsFunc(have, func(m map[string]string) bool {
			v, ok := m[key]
			return ok && (!exact || v == value)
		}) {
			return false
		}
	}
	return true
}
