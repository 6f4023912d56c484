package rollout

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	swarmv1 "swarm/proto/swarm/v1"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(epoch.Add(d)) }

func TestRestartPolicy_Allows(t *testing.T) {
	type policy = swarmv1.RestartPolicy
	const (
		complete = swarmv1.TaskState_COMPLETE
		failed   = swarmv1.TaskState_FAILED
	)
	minute := durationpb.New(time.Minute)
	for _, c := range []struct {
		name     string
		policy   *policy
		state    swarmv1.TaskState
		restarts *swarmv1.RestartHistory
		want     bool
	}{
		{"no policy, completed", nil, complete, nil, true},
		{"none, failed", &policy{Condition: swarmv1.RestartPolicy_NONE}, failed, nil, false},
		{"on failure, completed", &policy{Condition: swarmv1.RestartPolicy_ON_FAILURE}, complete, nil, false},
		{"on failure, failed", &policy{Condition: swarmv1.RestartPolicy_ON_FAILURE}, failed, nil, true},
		{"last attempt", &policy{MaxAttempts: 3}, failed, &swarmv1.RestartHistory{Attempts: 2}, true},
		{"no attempt left", &policy{MaxAttempts: 3}, failed, &swarmv1.RestartHistory{Attempts: 3}, false},
		{
			"no attempt left in the window", &policy{MaxAttempts: 2, Window: minute}, failed,
			&swarmv1.RestartHistory{Attempts: 9, Recent: []*timestamppb.Timestamp{at(0), at(time.Minute)}}, false,
		},
		{
			"an attempt has left the window", &policy{MaxAttempts: 2, Window: minute}, failed,
			&swarmv1.RestartHistory{Attempts: 9, Recent: []*timestamppb.Timestamp{at(-1), at(time.Minute)}}, true,
		},
	} {
		task := Task{Row: &swarmv1.Task{Restarts: c.restarts}, Status: &swarmv1.TaskStatus{State: c.state}}
		if got := RestartPolicyOf(c.policy).Allows(task, epoch.Add(time.Minute)); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestRestartPolicy_Successor(t *testing.T) {
	p := RestartPolicyOf(&swarmv1.RestartPolicy{MaxAttempts: 2, Window: durationpb.New(time.Minute)})
	ended := Task{
		Row: &swarmv1.Task{Restarts: &swarmv1.RestartHistory{
			Attempts: 7, Recent: []*timestamppb.Timestamp{at(-2 * time.Minute), at(-time.Second)},
		}},
		Status: &swarmv1.TaskStatus{State: swarmv1.TaskState_FAILED, RunningSince: at(-time.Second), Timestamp: at(0)},
	}
	h, start := p.Successor(ended, epoch)
	if got, want := start.Sub(epoch), 5*time.Second; got != want {
		t.Errorf("delay of a policy that does not set one: got %v, want %v", got, want)
	}
	if h.GetAttempts() != 8 || h.GetStreak() != 0 {
		t.Errorf("attempts, streak: got %d, %d, want 8, 0", h.GetAttempts(), h.GetStreak())
	}
	recent := h.GetRecent()
	if len(recent) != 2 || !recent[0].AsTime().Equal(epoch.Add(-time.Second)) || !recent[1].AsTime().Equal(epoch) {
		t.Errorf("restarts in the window: got %v, want those 1 s ago and now", recent)
	}
}

func TestRestartPolicy_Backoff(t *testing.T) {
	for _, c := range []struct {
		delay time.Duration
		want  []time.Duration // in seconds
	}{
		{5 * time.Second, []time.Duration{5, 5, 10, 20, 40, 80, 80, 80}},
		{time.Minute, []time.Duration{60, 60, 120, 240, 300, 300}},
		{time.Hour, []time.Duration{3600, 3600, 3600, 3600}},
		{0, []time.Duration{1, 1, 2, 4, 8, 16, 16}},
	} {
		for streak, want := range c.want {
			p := RestartPolicy{delay: c.delay}
			if got := p.backoff(Task{}, uint64(streak)); got != want*time.Second {
				t.Errorf("pause after %d failures in a row, with a delay of %v: got %v, want %v", streak, c.delay, got, want*time.Second)
			}
		}
	}
}
