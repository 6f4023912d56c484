package stats

import (
	"testing"

	swarmv1 "swarm/proto/swarm/v1"
)

func TestRates(t *testing.T) {
	round := func(clock int64, cpu uint64) *swarmv1.WatchStatsResponse {
		return &swarmv1.WatchStatsResponse{Tasks: []*swarmv1.TaskStats{{TaskId: "t1", Usage: &swarmv1.TaskUsage{Clock: clock, Cpu: cpu}}}}
	}
	var r Rates
	for _, step := range []struct {
		what string
		in   *swarmv1.WatchStatsResponse
		want Load
	}{
		{"first", round(1000, 100), Load{}},
		{"half a CPU", round(2000, 600), Load{CPU: 50, Known: true}},
		{"two CPUs", round(3000, 2600), Load{CPU: 200, Known: true}},
		{"the clock was set back", round(500, 2700), Load{}},
		{"idle", round(1500, 2700), Load{Known: true}},
		{"the counter began again", round(2500, 5), Load{}},
		{"gone", &swarmv1.WatchStatsResponse{}, Load{}},
		{"first again", round(3500, 10), Load{}},
	} {
		if got := r.Round(step.in)["t1"]; got != step.want {
			t.Errorf("%s: got %v, want %v", step.what, got, step.want)
		}
	}
}
