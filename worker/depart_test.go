package worker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/simulated"
)

// A worker whose host shuts down first tells the managers. It then stops every task with its signal
// and grace period, and the managers learn how the task ended. Tasks that are assigned meanwhile do
// not start.
func TestWorker_DepartStopsTasksWithGrace(t *testing.T) {
	const obeys = 3 * time.Second
	bubble(t, simulated.Config{Delays: simulated.Delays{Stop: obeys}}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.ContainerSpec.StopSignal = "SIGINT"
			s.TaskTemplate.ContainerSpec.StopGracePeriod = durationpb.New(5 * time.Second)
		}), taskObject("t1", running), taskObject("t2", running)}
		r.start()
		m.waitState("t1", running)
		m.waitState("t2", running)
		began := time.Now()
		left := make(chan error, 1)
		go func() { left <- r.w.Depart(t.Context()) }()
		m.wait("departure", func() bool { return !m.departed.IsZero() })
		m.assign(puts(taskObject("t3", running))...)
		if err := <-left; err != nil || time.Since(began) != obeys {
			t.Errorf("departed after %s with %v, want %s", time.Since(began), err, obeys)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		for id, code := range map[string]int32{"t1": 130, "t2": 130, "t3": 0} {
			if s := m.statuses[id]; s.GetState() != shutdown || s.GetContainerStatus().GetExitCode() != code {
				t.Errorf("%s: got %v, want shut down with code %d", id, s, code)
			}
		}
		if at := m.departed.Sub(began); at != 0 {
			t.Errorf("said so after %s", at)
		}
		if found, _ := r.runtime.List(t.Context()); len(found) != 0 {
			t.Errorf("left running: %v", found)
		}
	})
}

// If no manager answers, the worker stops the tasks nevertheless after a short time, and Depart
// waits no longer than its context allows.
func TestWorker_DepartWithoutManagers(t *testing.T) {
	bubble(t, simulated.Config{Delays: simulated.Delays{Stop: time.Minute}}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
		r.start()
		m.waitState("t1", running)
		m.mu.Lock()
		m.noAck = true
		m.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := r.w.Depart(ctx); err == nil {
			t.Error("a task that does not stop was not missed")
		}
		began := time.Now()
		if err := r.w.Depart(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if found, _ := r.runtime.List(t.Context()); len(found) != 0 || time.Since(began) > 15*time.Second {
			t.Errorf("after %s left running: %v", time.Since(began), found)
		}
	})
}
