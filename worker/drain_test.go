package worker_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
	"swarm/worker/simulated"
)

// publishes makes a service publish a port on all nodes.
func publishes(s *swarmv1.ServiceSpec) {
	s.EndpointSpec = &swarmv1.EndpointSpec{Ports: []*swarmv1.PortConfig{{TargetPort: 80, PublishedPort: 8080}}}
}

func TestWorker_StopsOnceNobodySendsMore(t *testing.T) {
	for _, tt := range []struct {
		name  string
		knows time.Duration // when AwaitProgrammed returns, counted from the stop; 0: never
		want  time.Duration
	}{
		{"the others soon know", 700 * time.Millisecond, 900 * time.Millisecond},
		{"one is lost", 0, 10200 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
				m := r.managers["m1"]
				m.settles = make(chan struct{})
				m.initial = []*swarmv1.Assignment{revisionObject(publishes), taskObject("t1", running), taskObject("t2", running)}
				r.start()
				m.waitState("t1", running)
				m.waitState("t2", running)
				began := time.Now()
				m.assign(puts(taskObject("t1", shutdown), taskObject("t2", shutdown))...)
				if tt.knows > 0 {
					time.AfterFunc(tt.knows, func() { close(m.settles) })
				}
				m.waitState("t1", shutdown)
				m.waitState("t2", shutdown)
				if got := time.Since(began); got < tt.want || got > tt.want+time.Second/10 {
					t.Errorf("the tasks stopped after %s, want %s", got, tt.want)
				}
			})
		})
	}
}

// The worker acknowledges assignments only when their data path is programmed.
func TestWorker_AcknowledgesProgrammedAssignments(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		var slow, fails atomic.Bool
		slow.Store(true)
		done := make(chan struct{})
		r.edit = func(_ *worker.Config, d *worker.Deps) {
			d.Programmed = func(ctx context.Context) error {
				if slow.Load() {
					select {
					case <-done:
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				if fails.Load() {
					return errors.New("kernel says no")
				}
				return nil
			}
		}
		m := r.managers["m1"]
		said := func() uint64 {
			synctest.Wait()
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.programmed
		}
		m.initial = []*swarmv1.Assignment{revisionObject(publishes)}
		r.start()
		m.waitSession(1)
		time.Sleep(time.Minute)
		if got := said(); got != 0 {
			t.Errorf("assignments %d are acknowledged, but they are not programmed", got)
		}
		slow.Store(false)
		close(done)
		if got := said(); got != 1 {
			t.Errorf("assignments %d are acknowledged, want 1", got)
		}
		fails.Store(true)
		m.assign(puts(taskObject("t1", running))...)
		time.Sleep(time.Minute)
		if got := said(); got != 1 {
			t.Errorf("assignments %d are acknowledged, want 1 while the kernel refuses", got)
		}
		fails.Store(false)
		time.Sleep(time.Minute)
		if got := said(); got != 2 {
			t.Errorf("assignments %d are acknowledged, want 2", got)
		}
	})
}
