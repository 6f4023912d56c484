package worker_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/simulated"
)

// following returns a revision whose container has version number of the secret, and does on when
// it changes.
func following(number uint64, on *swarmv1.OnUpdate) *swarmv1.Assignment {
	o := revisionObject(func(s *swarmv1.ServiceSpec) {
		s.TaskTemplate.ContainerSpec.Secrets = []*swarmv1.DataReference{{Id: "sec", Name: "pw", Number: number, OnUpdate: on}}
	})
	o.GetRevision().Number = number
	return o
}

// rotate gives the task version number of the secret, as managers do.
func (m *manager) rotate(number uint64, data string, on *swarmv1.OnUpdate) {
	m.assign(append(puts(version("sec", number, data), following(number, on), taskObject("t1", running, of(number))),
		removal(swarmv1.AssignmentRef_REVISION, "s1/0000000001"), removal(swarmv1.AssignmentRef_DATA_VERSION, "sec/0000000001"))...)
	synctest.Wait()
}

func wantSecret(t *testing.T, r *rig, want string) {
	t.Helper()
	synctest.Wait()
	c, _ := r.runtime.Container("t1")
	if len(c.Files) != 1 || string(c.Files[0].Data) != want {
		t.Errorf("files: got %v, want one with %q", c.Files, want)
	}
}

func TestWorker_ExchangesASecretWhileItRuns(t *testing.T) {
	var commands atomic.Int32
	cfg := simulated.Config{Exec: func(_ context.Context, start *swarmv1.ExecStart, _ engine.ExecStreams) int {
		if slices.Equal(start.Command, []string{"reload", "now"}) {
			commands.Add(1)
		}
		return 0
	}}
	for name, c := range map[string]struct {
		on       *swarmv1.OnUpdate
		signals  []string
		commands int32
	}{
		"none":   {on: &swarmv1.OnUpdate{Action: swarmv1.OnUpdate_NONE}},
		"signal": {on: &swarmv1.OnUpdate{Action: swarmv1.OnUpdate_SIGNAL, Signal: "HUP"}, signals: []string{"HUP"}},
		"exec":   {on: &swarmv1.OnUpdate{Action: swarmv1.OnUpdate_EXEC, Command: []string{"reload", "now"}}, commands: 1},
	} {
		t.Run(name, func(t *testing.T) {
			commands.Store(0)
			bubble(t, cfg, []string{"m1"}, func(t *testing.T, r *rig) {
				m := r.managers["m1"]
				m.initial = []*swarmv1.Assignment{version("sec", 1, "old"), following(1, c.on), taskObject("t1", running)}
				r.start()
				m.waitState("t1", running)
				m.rotate(2, "new", c.on)
				wantSecret(t, r, "new")
				if got := r.runtime.Signals("t1"); !slices.Equal(got, c.signals) || commands.Load() != c.commands {
					t.Errorf("signals %v and %d commands, want %v and %d", got, commands.Load(), c.signals, c.commands)
				}
				if got := r.runtime.Starts(); got != 1 || m.statuses["t1"].GetAppliedRevision() != 2 {
					t.Errorf("containers started: %d, status: %v; want one container, with revision 2", got, m.statuses["t1"])
				}
			})
		})
	}
}

// A daemon that is restarted gives the container a version that came meanwhile, but does not tell
// the container of a version that it has.
func TestWorker_ExchangesAfterARestart(t *testing.T) {
	on := &swarmv1.OnUpdate{Action: swarmv1.OnUpdate_SIGNAL, Signal: "HUP"}
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{version("sec", 1, "old"), following(1, on), taskObject("t1", running)}
		r.start()
		m.waitState("t1", running)
		r.stop()
		r.start()
		synctest.Wait()
		wantSecret(t, r, "old")
		r.stop()
		m.initial = []*swarmv1.Assignment{version("sec", 2, "new"), following(2, on), taskObject("t1", running, of(2))}
		r.start()
		wantSecret(t, r, "new")
		if got := r.runtime.Signals("t1"); !slices.Equal(got, []string{"HUP"}) {
			t.Errorf("signals: got %v, want one", got)
		}
	})
}

// If the container cannot get the new version, the managers learn it and replace the task.
func TestWorker_ReportsASecretThatCannotBeExchanged(t *testing.T) {
	none := &swarmv1.OnUpdate{Action: swarmv1.OnUpdate_NONE}
	exec := &swarmv1.OnUpdate{Action: swarmv1.OnUpdate_EXEC, Command: []string{"reload"}}
	for name, c := range map[string]struct {
		cfg simulated.Config
		on  *swarmv1.OnUpdate
	}{
		"the runtime refuses": {simulated.Config{Fail: func(op, _ string) error {
			if op == "exchange" {
				return errors.Join(errors.New("no mount"), errdefs.ErrFailedPrecondition)
			}
			return nil
		}}, none},
		"the command fails": {simulated.Config{Exec: func(context.Context, *swarmv1.ExecStart, engine.ExecStreams) int { return 3 }}, exec},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, c.cfg, []string{"m1"}, func(t *testing.T, r *rig) {
				m := r.managers["m1"]
				m.initial = []*swarmv1.Assignment{version("sec", 1, "old"), following(1, c.on), taskObject("t1", running)}
				r.start()
				m.waitState("t1", running)
				m.rotate(2, "new", c.on)
				if s := m.statuses["t1"]; s.GetRefusedRevision() != 2 || s.GetAppliedRevision() != 1 || s.GetState() != running {
					t.Errorf("got %v, want RUNNING with revision 1 applied and 2 refused", s)
				}
			})
		})
	}
}
