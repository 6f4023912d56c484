package worker_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/simulated"
)

func TestWorker_OutOfContactItRestartsByPolicy(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.RestartPolicy = &swarmv1.RestartPolicy{MaxAttempts: 2, Delay: durationpb.New(time.Second)}
		}), taskObject("t1", running)}
		r.start()
		m.waitState("t1", running)
		time.Sleep(time.Minute)
		m.mu.Lock()
		m.refuse = errdefs.ErrUnavailable
		m.mu.Unlock()
		m.drop(errdefs.ErrUnavailable)
		synctest.Wait()
		for want := 2; want <= 3; want++ {
			r.runtime.End("t1", engine.Exit{Code: 1})
			time.Sleep(20 * time.Second)
			if got := r.runtime.Starts(); got != want {
				t.Fatalf("%d starts, want %d", got, want)
			}
		}
		r.runtime.End("t1", engine.Exit{Code: 1})
		time.Sleep(20 * time.Second)
		m.mu.Lock()
		m.refuse = nil
		m.mu.Unlock()
		m.waitState("t1", failed)
	})
}

// A single-writer task is prepared while its node has no contact to the managers. It must not start
// before the managers have sent their latest decisions.
func TestWorker_SingleWriterDoesNotStartOutOfContact(t *testing.T) {
	for name, desired := range map[string]swarmv1.TaskState{"and is stopped": swarmv1.TaskState_SHUTDOWN, "and is started": running} {
		t.Run(name, func(t *testing.T) {
			bubble(t, simulated.Config{Delays: simulated.Delays{Prepare: 20 * time.Second}}, []string{"m1"}, func(t *testing.T, r *rig) {
				m := r.managers["m1"]
				revision := revisionObject(func(s *swarmv1.ServiceSpec) { s.SingleWriter = true })
				m.initial = []*swarmv1.Assignment{revision, taskObject("t1", running)}
				r.start()
				time.Sleep(time.Second)
				m.mu.Lock()
				m.refuse, m.initial = errdefs.ErrUnavailable, []*swarmv1.Assignment{revision, taskObject("t1", desired)}
				m.mu.Unlock()
				m.drop(errdefs.ErrUnavailable)
				time.Sleep(time.Minute)
				if n := r.runtime.Starts(); n != 0 {
					t.Fatalf("%d starts out of contact, want 0", n)
				}
				m.mu.Lock()
				m.refuse = nil
				m.mu.Unlock()
				if desired == running {
					m.waitState("t1", running)
					return
				}
				m.waitState("t1", swarmv1.TaskState_SHUTDOWN)
				if n := r.runtime.Starts(); n != 0 {
					t.Errorf("%d starts of a task that was taken over, want 0", n)
				}
			})
		})
	}
}

func TestWorker_SingleWriterIsFenced(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(func(s *swarmv1.ServiceSpec) { s.SingleWriter = true }), taskObject("t1", running)}
		r.start()
		m.waitState("t1", running)
		time.Sleep(time.Minute)
		cut := func(d time.Duration) {
			m.mu.Lock()
			m.refuse = errdefs.ErrUnavailable
			m.mu.Unlock()
			m.drop(errdefs.ErrUnavailable)
			time.Sleep(d)
			m.mu.Lock()
			m.refuse = nil
			m.mu.Unlock()
		}
		cut(5 * time.Second)
		time.Sleep(time.Minute)
		if s := m.statuses["t1"]; s.State != running {
			t.Fatalf("stopped within the lease: %v", s)
		}
		cut(10 * time.Second)
		if s := m.waitState("t1", failed); !strings.Contains(s.Err, "fenced") {
			t.Errorf("status = %v", s)
		}
	})
}
