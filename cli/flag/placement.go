package flag

import (
	"fmt"
	"strings"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// ParsePreference parses --placement-pref: spread=node.labels.LABEL.
func ParsePreference(s string) (*swarmv1.PlacementPreference, error) {
	strategy, descriptor, _ := strings.Cut(s, "=")
	if strategy != "spread" || descriptor == "" {
		return nil, fmt.Errorf("use spread=node.labels.LABEL")
	}
	return &swarmv1.PlacementPreference{Preference: &swarmv1.PlacementPreference_Spread{
		Spread: &swarmv1.SpreadOver{SpreadDescriptor: descriptor},
	}}, nil
}

// CheckConstraint refuses a constraint that managers would refuse.
func CheckConstraint(s string) error {
	_, err := spec.ParseConstraint(s)
	return err
}
