package service

import (
	"strings"
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
)

func TestPlacementHints(t *testing.T) {
	for filter, want := range map[string]string{
		"constraint": "--label-add", "memory": "--reserve-", "image": "docker save app:1 | swarm image load", "down": "swarm node ls", "availability": "--availability active",
		"port": "another port", "max-replicas": "--replicas-max-per-node", "platform": "platform", "new-filter": "", "address": "--network-rm",
	} {
		if got := placementHint(&swarmv1.Unplaced{Refusals: []*swarmv1.Refusal{{Filter: filter, Nodes: 2}}}, "app:1"); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: got %q, want %q", filter, got, want)
		}
	}
}
