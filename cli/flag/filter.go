package flag

import (
	"fmt"
	"slices"
	"strings"

	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// Filter is the flag --filter, which may be given several times. The values KEY=VALUE are appended
// to Values. Keys are the keys that the command filters by, for completion; ParseFilters checks
// them.
type Filter struct {
	Values *[]string
	Keys   []string
}

// Type implements pflag.Value.
func (f *Filter) Type() string { return "filter" }

// String implements pflag.Value.
func (f *Filter) String() string { return "" }

// Set adds a filter.
func (f *Filter) Set(s string) error {
	if key, value, ok := strings.Cut(s, "="); !ok || key == "" || value == "" {
		return fmt.Errorf("use KEY=VALUE")
	}
	*f.Values = append(*f.Values, s)
	return nil
}

// ParseFilters returns the filters that managers apply as a Filter, and the other filters, which
// the caller must apply itself, as values by key. It returns an invalid argument error for a key
// that is not in allowed, and for a value that no object can have.
func ParseFilters(filters []string, allowed ...string) (*swarmv1.Filter, map[string][]string, error) {
	out, rest := &swarmv1.Filter{}, map[string][]string{}
	for _, f := range filters {
		key, value, _ := strings.Cut(f, "=")
		if !slices.Contains(allowed, key) {
			return nil, nil, usage.Invalidf("unknown filter %q: use one of %s", key, strings.Join(allowed, ", "))
		}
		switch key {
		case "id":
			out.IdPrefixes = append(out.IdPrefixes, value)
		case "name":
			out.NamePrefixes = append(out.NamePrefixes, value)
		case "label", "node.label":
			out.Labels = append(out.Labels, value)
		case "mode":
			if !slices.Contains(ServiceModes, value) {
				return nil, nil, usage.Invalidf("unknown mode %q: use one of %s", value, strings.Join(ServiceModes, ", "))
			}
			out.Modes = append(out.Modes, value)
		case "role":
			role, ok := swarmv1.NodeSpec_Role_value[strings.ToUpper(value)]
			if !ok {
				return nil, nil, usage.Invalidf("unknown role %q: use worker or manager", value)
			}
			out.Roles = append(out.Roles, swarmv1.NodeSpec_Role(role))
		case "desired-state":
			state, ok := desiredStates[value]
			if !ok {
				return nil, nil, usage.Invalidf("unknown desired state %q: use running, ready, shutdown or accepted", value)
			}
			out.DesiredStates = append(out.DesiredStates, state...)
		default:
			rest[key] = append(rest[key], value)
		}
	}
	return out, rest, nil
}

// desiredStates has the states for each word of --filter desired-state. As in Docker, a task with
// the desired state REMOVE counts as shut down.
var desiredStates = map[string][]swarmv1.TaskState{
	"running":  {swarmv1.TaskState_RUNNING},
	"ready":    {swarmv1.TaskState_READY},
	"accepted": {swarmv1.TaskState_ACCEPTED},
	"shutdown": {swarmv1.TaskState_SHUTDOWN, swarmv1.TaskState_REMOVE},
}

// ServiceModes are the values of --mode.
var ServiceModes = []string{"replicated", "global", "replicated-job", "global-job"}
