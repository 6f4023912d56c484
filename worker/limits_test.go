package worker_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/simulated"
)

// limited returns a revision of the service that differs from the others in its limits.
func limited(number uint64, memory int64, edit ...func(*swarmv1.ServiceSpec)) *swarmv1.Assignment {
	o := revisionObject(edit...)
	rev := o.GetRevision()
	rev.Number = number
	rev.Spec.TaskTemplate.Resources = &swarmv1.ResourceRequirements{Limits: &swarmv1.Resources{MemoryBytes: memory}}
	return o
}

func of(revision uint64) func(*swarmv1.Task) {
	return func(t *swarmv1.Task) { t.Revision = revision }
}

// move gives the task another revision, as managers do: they send the new revision and the task,
// and remove the old revision.
func (m *manager) move(rev *swarmv1.Assignment) {
	number := rev.GetRevision().GetNumber()
	m.assign(append(puts(rev, taskObject("t1", running, of(number))), removal(swarmv1.AssignmentRef_REVISION, "s1/0000000001"))...)
	synctest.Wait()
}

// probe acts as a health check.
func probe(unhealthy *atomic.Bool) func(context.Context, *swarmv1.ExecStart, engine.ExecStreams) int {
	return func(context.Context, *swarmv1.ExecStart, engine.ExecStreams) int {
		if unhealthy.Load() {
			return 1
		}
		return 0
	}
}

func wantMemory(t *testing.T, r *rig, want int64) {
	t.Helper()
	synctest.Wait()
	if got := r.runtime.Limits("t1").GetLimits().GetMemoryBytes(); got != want {
		t.Errorf("memory limit of the container: got %d, want %d", got, want)
	}
}

func TestWorker_LimitsChangeWhileItRuns(t *testing.T) {
	var unhealthy atomic.Bool
	cfg := simulated.Config{Exec: probe(&unhealthy)}
	checked := func(s *swarmv1.ServiceSpec) {
		s.TaskTemplate.ContainerSpec.Healthcheck = &swarmv1.HealthConfig{Test: []string{"CMD", "check"}, Interval: durationpb.New(time.Second), Retries: 1}
	}
	for name, edit := range map[string]func(*swarmv1.ServiceSpec){"plain": func(*swarmv1.ServiceSpec) {}, "with a health check": checked} {
		t.Run(name, func(t *testing.T) {
			bubble(t, cfg, []string{"m1"}, func(t *testing.T, r *rig) {
				m := r.managers["m1"]
				m.initial = []*swarmv1.Assignment{limited(1, 10, edit), taskObject("t1", running)}
				r.start()
				m.waitState("t1", running)
				m.move(limited(2, 20, edit))
				wantMemory(t, r, 20)
				m.move(limited(3, 0, edit))
				wantMemory(t, r, 0)
				if got := r.runtime.Starts(); got != 1 || m.statuses["t1"].GetAppliedRevision() != 3 {
					t.Errorf("containers started: %d, status: %v; want one container, with revision 3", got, m.statuses["t1"])
				}
			})
		})
	}
}

// A task that is not healthy yet gets new limits too, because with them it may become healthy.
func TestWorker_LimitsChangeBeforeItIsHealthy(t *testing.T) {
	var unhealthy atomic.Bool
	unhealthy.Store(true)
	bubble(t, simulated.Config{Exec: probe(&unhealthy)}, []string{"m1"}, func(t *testing.T, r *rig) {
		slow := func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.ContainerSpec.Healthcheck = &swarmv1.HealthConfig{
				Test: []string{"CMD", "check"}, Interval: durationpb.New(time.Second), StartPeriod: durationpb.New(time.Hour),
			}
		}
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{limited(1, 10, slow), taskObject("t1", running)}
		r.start()
		m.waitState("t1", swarmv1.TaskState_STARTING)
		m.move(limited(2, 20, slow))
		wantMemory(t, r, 20)
		unhealthy.Store(false)
		m.waitState("t1", running)
		if got := r.runtime.Starts(); got != 1 {
			t.Errorf("containers started: %d, want 1", got)
		}
	})
}

func TestWorker_RefusedLimitsAreReported(t *testing.T) {
	var refusal atomic.Pointer[error]
	refuse := func(err error) { refusal.Store(&err) }
	refuse(nil)
	cfg := simulated.Config{Fail: func(op, _ string) error {
		if op == "update" {
			return *refusal.Load()
		}
		return nil
	}}
	bubble(t, cfg, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{limited(1, 10), taskObject("t1", running)}
		r.start()
		m.waitState("t1", running)
		refuse(errdefs.ErrFailedPrecondition.WithMessage("current usage: 15"))
		m.move(limited(2, 5))
		s := m.waitErr("t1", "limits could not be changed while it runs, so it is replaced: current usage: 15")
		if s.State != running || !s.Ready || s.RefusedRevision != 2 || s.AppliedRevision != 1 {
			t.Errorf("status: got %v, want a running task of revision 1 that refuses revision 2", s)
		}
		wantMemory(t, r, 10)
		refuse(nil)
		m.move(limited(3, 30))
		m.wait("the refusal to be taken back", func() bool { s := m.statuses["t1"]; return s.RefusedRevision == 0 && s.Err == "" })
		wantMemory(t, r, 30)

		// A runtime that is unavailable for a while does not count as a refusal.
		refuse(errdefs.ErrUnavailable)
		m.move(limited(4, 40))
		time.Sleep(20 * time.Second)
		wantMemory(t, r, 30)
		refuse(nil)
		time.Sleep(20 * time.Second)
		wantMemory(t, r, 40)
		if s := m.statuses["t1"]; s.RefusedRevision != 0 || s.AppliedRevision != 4 {
			t.Errorf("status: got %v, want revision 4 applied and no refusal", s)
		}
	})
}

// The daemon is down when the limits change, or is killed while it changes them.
func TestWorker_AdoptedTaskIsGivenItsLimits(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{limited(1, 10), taskObject("t1", running)}
		r.start()
		m.waitState("t1", running)
		synctest.Wait()
		r.stop()
		m.initial = []*swarmv1.Assignment{limited(2, 20), taskObject("t1", running, of(2))}
		r.start()
		m.waitSession(2)
		wantMemory(t, r, 20)
		r.stop()
		if err := r.runtime.Update(t.Context(), "t1", nil); err != nil {
			t.Fatal(err)
		}
		r.start()
		wantMemory(t, r, 20)
		if got := r.runtime.Starts(); got != 1 {
			t.Errorf("containers started: %d, want 1", got)
		}
	})
}
