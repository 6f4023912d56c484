package object

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	swarmv1 "swarm/proto/swarm/v1"
)

// Events say what waits to be accepted, and what was accepted.
func TestPendingChange(t *testing.T) {
	state := func(accepted, pending string) *swarmv1.NodeState {
		s := &swarmv1.NodeState{SessionEpoch: 1, Description: &swarmv1.NodeDescription{
			Engine: &swarmv1.EngineDescription{Labels: map[string]string{"disk": accepted}},
		}}
		if pending != "" {
			s.Pending = &swarmv1.NodeFacts{EngineLabels: map[string]string{"disk": pending}}
		}
		return s
	}
	for _, c := range []struct {
		name     string
		old, now *swarmv1.NodeState
		want     map[string]string
	}{
		{"the first session", &swarmv1.NodeState{}, state("hdd", ""), nil},
		{"another session", state("hdd", "ssd"), state("hdd", "ssd"), nil},
		{"a change", state("hdd", ""), state("hdd", "ssd"), map[string]string{"pending": "engine label disk=ssd (was disk=hdd)"}},
		{"taken back", state("hdd", "ssd"), state("hdd", ""), map[string]string{"pending": "none"}},
		{"accepted", state("hdd", "ssd"), state("ssd", ""), map[string]string{"accepted": "engine label disk=ssd (was disk=hdd)"}},
	} {
		if diff := cmp.Diff(c.want, pendingChange(c.old, c.now)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
