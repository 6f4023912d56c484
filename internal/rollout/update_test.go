package rollout

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	swarmv1 "swarm/proto/swarm/v1"
)

// revision has template 7, was written at version 10, and has different options for the update and
// for the rollback.
func revision() *swarmv1.Revision {
	return &swarmv1.Revision{
		Number: 2, Template: 7, Meta: &swarmv1.Meta{Version: 10},
		Spec: &swarmv1.ServiceSpec{
			UpdateConfig:   &swarmv1.UpdateConfig{Monitor: durationpb.New(5 * time.Second), Delay: durationpb.New(2 * time.Second)},
			RollbackConfig: &swarmv1.UpdateConfig{Monitor: durationpb.New(time.Second), Order: swarmv1.UpdateConfig_START_FIRST},
		},
	}
}

func updating(state swarmv1.UpdateStatus_State, version uint64) *swarmv1.Service {
	return &swarmv1.Service{UpdateStatus: &swarmv1.UpdateStatus{State: state, StartedVersion: version}}
}

func TestUpdateOf(t *testing.T) {
	const (
		unknown = swarmv1.UpdateStatus_UNKNOWN
		started = swarmv1.UpdateStatus_ROLLBACK_STARTED
	)
	for _, c := range []struct {
		name                          string
		service                       *swarmv1.Service
		want                          swarmv1.UpdateStatus_State
		active, paused, back, starter bool
	}{
		{"no status", &swarmv1.Service{}, unknown, false, false, false, false},
		{"updating", updating(swarmv1.UpdateStatus_UPDATING, 11), swarmv1.UpdateStatus_UPDATING, true, false, false, false},
		{"an earlier update", updating(swarmv1.UpdateStatus_UPDATING, 9), unknown, false, false, false, false},
		{"an earlier paused rollback", updating(swarmv1.UpdateStatus_ROLLBACK_PAUSED, 9), unknown, false, false, false, false},
		{"paused", updating(swarmv1.UpdateStatus_PAUSED, 11), swarmv1.UpdateStatus_PAUSED, false, true, false, false},
		{"a rollback that the user asked for", updating(started, 9), started, true, false, true, true},
		{"rollback paused", updating(swarmv1.UpdateStatus_ROLLBACK_PAUSED, 11), swarmv1.UpdateStatus_ROLLBACK_PAUSED, false, true, true, true},
		{"rollback completed", updating(swarmv1.UpdateStatus_ROLLBACK_COMPLETED, 11), swarmv1.UpdateStatus_ROLLBACK_COMPLETED, false, false, true, true},
		{"completed", updating(swarmv1.UpdateStatus_COMPLETED, 11), swarmv1.UpdateStatus_COMPLETED, false, false, false, false},
	} {
		u := UpdateOf(c.service, revision())
		if u.State != c.want || u.Active() != c.active || u.Paused() != c.paused || u.IsRollback() != c.back || u.StartFirst() != c.starter {
			t.Errorf("%s: got %v, active %v, paused %v, rolling back %v, start-first %v; want %v, %v, %v, %v, %v",
				c.name, u.State, u.Active(), u.Paused(), u.IsRollback(), u.StartFirst(), c.want, c.active, c.paused, c.back, c.starter)
		}
	}
}

func TestUpdate_Failed(t *testing.T) {
	u := UpdateOf(updating(swarmv1.UpdateStatus_UPDATING, 11), revision())
	// task failed at once, and is changed by each case
	task := func(edit func(*Task)) Task {
		x := Task{Row: &swarmv1.Task{Update: 11}, Status: &swarmv1.TaskStatus{State: swarmv1.TaskState_FAILED, Timestamp: at(0)}, Revision: revision()}
		edit(&x)
		return x
	}
	ran := func(d time.Duration) func(*Task) { return func(x *Task) { x.Status.RunningSince = at(-d) } }
	state := func(s swarmv1.TaskState) func(*Task) { return func(x *Task) { x.Status.State = s } }
	for _, c := range []struct {
		name string
		task Task
		want bool
	}{
		{"never ran", task(func(*Task) {}), true},
		{"ran for less than the monitor time", task(ran(4 * time.Second)), true},
		{"ran for the monitor time", task(ran(5 * time.Second)), false},
		{"rejected", task(state(swarmv1.TaskState_REJECTED)), true},
		{"ended with 0, restarts always", task(state(swarmv1.TaskState_COMPLETE)), true},
		{"ended with 0, restarts on failure", task(func(x *Task) {
			x.Status.State = swarmv1.TaskState_COMPLETE
			x.Revision.Spec.TaskTemplate = &swarmv1.TaskSpec{RestartPolicy: &swarmv1.RestartPolicy{Condition: swarmv1.RestartPolicy_ON_FAILURE}}
		}), false},
		{"was stopped", task(state(swarmv1.TaskState_SHUTDOWN)), false},
		{"still runs", task(state(swarmv1.TaskState_RUNNING)), false},
		{"another update created it", task(func(x *Task) { x.Row.Update = 9 }), false},
		{"another template", task(func(x *Task) { x.Revision.Template = 6 }), false},
		{"no status yet", task(func(x *Task) { x.Status = nil }), false},
		{"no rows yet", Task{}, false},
	} {
		if got := u.Failed(c.task); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestUpdate_StableAt(t *testing.T) {
	u := UpdateOf(updating(swarmv1.UpdateStatus_UPDATING, 11), revision())
	if got, want := u.StableAt(epoch).Sub(epoch), 5*time.Second; got != want {
		t.Errorf("monitor 5 s, delay 2 s: stable after %v, want %v", got, want)
	}
	if got, want := u.ReplaceNextAt(epoch).Sub(epoch), 2*time.Second; got != want {
		t.Errorf("monitor 5 s, delay 2 s: next task after %v, want %v", got, want)
	}
	u.Config.Delay = durationpb.New(time.Minute)
	if got, want := u.StableAt(epoch).Sub(epoch), time.Minute; got != want {
		t.Errorf("monitor 5 s, delay 1 min: stable after %v, want %v", got, want)
	}
	if got := u.StableAt(time.Time{}); !got.IsZero() {
		t.Errorf("start not known: got %v, want the zero time", got)
	}
}
