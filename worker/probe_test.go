package worker_test

import (
	"context"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/simulated"
)

func TestWorker_UnhealthyLeavesTheLoadBalancerBeforeItIsKilled(t *testing.T) {
	var sick atomic.Bool
	cfg := simulated.Config{
		Delays: simulated.Delays{Stop: 2 * time.Second},
		Exec: func(_ context.Context, _ *swarmv1.ExecStart, s engine.ExecStreams) int {
			if sick.Load() {
				_, _ = io.WriteString(s.Stdout, "out of\ncheese\n")
				return 1
			}
			return 0
		},
	}
	bubble(t, cfg, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.ContainerSpec.Healthcheck = &swarmv1.HealthConfig{Test: []string{"CMD", "probe"}, Interval: durationpb.New(time.Second), Retries: 2}
		}), taskObject("t1", running)}
		r.start()
		m.waitState("t1", running)
		sick.Store(true)
		m.wait("not ready", func() bool { return !m.statuses["t1"].Ready })
		if s := m.statuses["t1"]; s.State != running || s.Err != "unhealthy: probe ended with 1: out of cheese" {
			t.Errorf("status = %v", s)
		}
		began := time.Now()
		s := m.waitState("t1", failed)
		if s.Err != "unhealthy: probe ended with 1: out of cheese" || time.Since(began) != 2*time.Second {
			t.Errorf("after %s: %v", time.Since(began), s)
		}
	})
}

func TestWorker_RunningMeansHealthy(t *testing.T) {
	var well atomic.Bool
	cfg := simulated.Config{Exec: func(context.Context, *swarmv1.ExecStart, engine.ExecStreams) int {
		if well.Load() {
			return 0
		}
		return 1
	}}
	bubble(t, cfg, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.ContainerSpec.Healthcheck = &swarmv1.HealthConfig{Test: []string{"CMD", "probe"}}
		}), taskObject("t1", running)}
		r.start()
		m.waitState("t1", swarmv1.TaskState_STARTING)
		well.Store(true)
		began := time.Now()
		m.waitState("t1", running)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("RUNNING %s after it was healthy", took)
		}
	})
}

// A service's own check takes precedence field by field, as in Docker. --no-healthcheck, which is
// NONE, turns the image's check off.
func TestWorker_HonoursTheImagesHealthcheck(t *testing.T) {
	image := &swarmv1.HealthConfig{Test: []string{"CMD-SHELL", "of the image"}, Interval: durationpb.New(time.Second), Retries: 2}
	for _, c := range []struct {
		name string
		own  *swarmv1.HealthConfig
		runs string // the command of the check; empty: no check
		sick time.Duration
	}{
		{"image's", nil, "/bin/ash -ec of the image", 2 * time.Second},
		{"image's, other interval", &swarmv1.HealthConfig{Interval: durationpb.New(5 * time.Second)}, "/bin/ash -ec of the image", 10 * time.Second},
		{"service's", &swarmv1.HealthConfig{Test: []string{"CMD", "own"}, Retries: 3}, "own", 3 * time.Second},
		{"none", &swarmv1.HealthConfig{Test: []string{"NONE"}}, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var sick atomic.Bool
			var ran atomic.Pointer[string]
			cfg := simulated.Config{
				Defaults: func(engine.Container) engine.ImageDefaults {
					return engine.ImageDefaults{Healthcheck: image, Shell: []string{"/bin/ash", "-ec"}}
				},
				Exec: func(_ context.Context, e *swarmv1.ExecStart, _ engine.ExecStreams) int {
					command := strings.Join(e.Command, " ")
					ran.Store(&command)
					if sick.Load() {
						return 1
					}
					return 0
				},
			}
			bubble(t, cfg, []string{"m1"}, func(t *testing.T, r *rig) {
				m := r.managers["m1"]
				m.initial = []*swarmv1.Assignment{revisionObject(func(s *swarmv1.ServiceSpec) { s.TaskTemplate.ContainerSpec.Healthcheck = c.own }), taskObject("t1", running)}
				r.start()
				m.waitState("t1", running)
				sick.Store(true)
				began := time.Now()
				if c.runs == "" {
					<-time.After(time.Minute) // in the bubble's time
					if s := m.status("t1"); s.GetState() != running || ran.Load() != nil {
						t.Errorf("status = %v, ran %v; want one that runs and no check", s, ran.Load())
					}
					return
				}
				m.waitState("t1", failed)
				if got := ran.Load(); got == nil || *got != c.runs || time.Since(began) != c.sick {
					t.Errorf("ran %q, failed after %v; want %q, %v", *got, time.Since(began), c.runs, c.sick)
				}
			})
		})
	}
}
