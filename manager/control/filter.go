package control

import (
	"slices"
	"strings"

	"swarm/internal/ident"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// subject is what a filter can see of a row.
type subject struct {
	id       string
	digest   string // an image's, in hexadecimal digits: it is shown as its id
	names    []string
	labels   []map[string]string
	services []string
	nodes    []string
	role     swarmv1.NodeSpec_Role
	hasRole  bool
	desired  swarmv1.TaskState
	isTask   bool
	mode     string
}

// matches: within a field of the filter any value fits, between fields all must. A field that the row does not have
// rules it out.
func matches(f *swarmv1.Filter, s subject) bool {
	if f == nil {
		return true
	}
	return fits(f.GetIds(), func(v string) bool { return v == s.id }) &&
		fits(f.GetNames(), func(v string) bool { return s.isNamed(v) }) &&
		fits(f.GetPrefixes(), func(v string) bool { return s.begins(v) }) &&
		fits(f.GetIdPrefixes(), func(v string) bool { return s.idBegins(v) }) &&
		fits(f.GetNamePrefixes(), func(v string) bool { return s.nameBegins(v) }) &&
		labelled(f.GetLabels(), s.labels) &&
		fits(f.GetServiceIds(), func(v string) bool { return slices.Contains(s.services, v) }) &&
		fits(f.GetNodeIds(), func(v string) bool { return slices.Contains(s.nodes, v) }) &&
		fits(f.GetRoles(), func(v swarmv1.NodeSpec_Role) bool { return s.hasRole && v == s.role }) &&
		fits(f.GetDesiredStates(), func(v swarmv1.TaskState) bool { return s.isTask && v == s.desired }) &&
		fits(f.GetModes(), func(v string) bool { return v == s.mode })
}

func fits[T any](values []T, fit func(T) bool) bool {
	return len(values) == 0 || slices.ContainsFunc(values, fit)
}

func (s subject) begins(prefix string) bool { return s.idBegins(prefix) || s.nameBegins(prefix) }

func (s subject) idBegins(prefix string) bool {
	return strings.HasPrefix(s.id, prefix) || s.digest != "" && strings.HasPrefix(s.digest, strings.TrimPrefix(prefix, "sha256:"))
}

func (s subject) isNamed(name string) bool {
	return slices.ContainsFunc(s.names, func(n string) bool { return ident.Fold(n) == ident.Fold(name) })
}

func (s subject) nameBegins(prefix string) bool {
	return slices.ContainsFunc(s.names, func(n string) bool { return strings.HasPrefix(ident.Fold(n), ident.Fold(prefix)) })
}

// labelled: as in Docker, every label that is asked for must be there.
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

func modeName(s *swarmv1.ServiceSpec) string {
	switch s.GetMode().GetMode().(type) {
	case *swarmv1.ServiceMode_Global:
		return "global"
	case *swarmv1.ServiceMode_ReplicatedJob:
		return "replicated-job"
	case *swarmv1.ServiceMode_GlobalJob:
		return "global-job"
	default:
		return "replicated"
	}
}

func taskSubject(v *raftstore.View, i *swarmv1.TaskInfo) subject {
	rev, _ := v.Revision(i.GetTask().GetServiceId(), i.GetTask().GetRevision())
	return subject{
		id: i.GetTask().GetId(), names: []string{taskName(i.GetServiceName(), i.GetTask())},
		labels:   []map[string]string{rev.GetSpec().GetTaskTemplate().GetContainerSpec().GetLabels()},
		services: []string{i.GetTask().GetServiceId()}, nodes: []string{i.GetTask().GetNodeId()},
		desired: i.GetTask().GetDesiredState(), isTask: true,
	}
}
