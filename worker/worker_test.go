package worker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/simulated"
)

const (
	isReady  = swarmv1.TaskState_READY
	running  = swarmv1.TaskState_RUNNING
	shutdown = swarmv1.TaskState_SHUTDOWN
	failed   = swarmv1.TaskState_FAILED
	rejected = swarmv1.TaskState_REJECTED
	complete = swarmv1.TaskState_COMPLETE
	remove   = swarmv1.TaskState_REMOVE
)

func TestWorker_AssignmentRunsAtOnce(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		r.start()
		m.waitSession(1)
		began := time.Now()
		m.assign(puts(revisionObject(), taskObject("t1", running))...)
		s := m.waitState("t1", running)
		if took := time.Since(began); took != 0 {
			t.Errorf("RUNNING after %s: something waited for a timer", took)
		}
		if !s.Ready || s.SessionEpoch != 1 || s.Sequence == 0 || s.Message != "started" || s.ContainerStatus.GetPid() == 0 || s.RunningSince == nil || len(s.Addresses) != 1 {
			t.Errorf("status = %v", s)
		}
		if len(m.reports) != 1 {
			t.Errorf("%d reports for one start, want 1: %v", len(m.reports), m.history)
		}
	})
}

func TestWorker_StopsWithSignalAndGrace(t *testing.T) {
	for _, c := range []struct {
		obeys, took time.Duration
		code        int32
	}{{3 * time.Second, 3 * time.Second, 130}, {time.Minute, 5 * time.Second, 137}} {
		bubble(t, simulated.Config{Delays: simulated.Delays{Stop: c.obeys}}, []string{"m1"}, func(t *testing.T, r *rig) {
			m := r.managers["m1"]
			m.initial = []*swarmv1.Assignment{revisionObject(func(s *swarmv1.ServiceSpec) {
				s.TaskTemplate.ContainerSpec.StopSignal = "SIGINT"
				s.TaskTemplate.ContainerSpec.StopGracePeriod = durationpb.New(5 * time.Second)
			}), taskObject("t1", running)}
			r.start()
			m.waitState("t1", running)
			began := time.Now()
			m.assign(puts(taskObject("t1", shutdown))...)
			s := m.waitState("t1", shutdown)
			if took := time.Since(began); took != c.took {
				t.Errorf("stopped after %s, want %s", took, c.took)
			}
			if s.Err != "" || s.Ready || s.ContainerStatus.ExitCode != c.code || s.Message != "shutdown" {
				t.Errorf("status = %v", s)
			}
			m.assign(removal(swarmv1.AssignmentRef_TASK, "t1"))
			synctest.Wait()
			if found, _ := r.runtime.List(t.Context()); len(found) != 0 || r.network.Attached() != 0 || r.w.Tasks() != 0 {
				t.Errorf("left behind: %v, %d attached, %d tasks", found, r.network.Attached(), r.w.Tasks())
			}
		})
	}
}

func TestWorker_ReadyWaitsForRunning(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", isReady)}
		r.start()
		m.waitState("t1", isReady)
		if r.runtime.Starts() != 0 {
			t.Error("started though READY is desired")
		}
		// The managers' clock decides when the task may start. They keep the task READY until then.
		m.assign(puts(taskObject("t1", running, func(t *swarmv1.Task) { t.StartAfter = timestamppb.New(time.Now().Add(time.Hour)) }))...)
		synctest.Wait()
		m.waitState("t1", running)
		if n := r.runtime.Starts(); n != 1 {
			t.Errorf("%d starts, want 1", n)
		}
	})
}

func TestWorker_SaysHowATaskEnded(t *testing.T) {
	for name, c := range map[string]struct {
		code  int
		state swarmv1.TaskState
		err   string
	}{"well": {0, complete, ""}, "badly": {3, failed, "task: non-zero exit (3)"}} {
		t.Run(name, func(t *testing.T) {
			life := func(engine.Container) (time.Duration, int, bool) { return time.Second, c.code, true }
			bubble(t, simulated.Config{Life: life}, []string{"m1"}, func(t *testing.T, r *rig) {
				m := r.managers["m1"]
				m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
				r.start()
				s := m.waitState("t1", c.state)
				if s.Err != c.err || s.ContainerStatus.ExitCode != int32(c.code) || s.Ready {
					t.Errorf("status = %v", s)
				}
				if want := []swarmv1.TaskState{running, c.state}; !slices.Equal(m.history["t1"], want) {
					t.Errorf("history = %v, want %v", m.history["t1"], want)
				}
			})
		})
	}
}

func TestWorker_StartThatCannotWorkFails(t *testing.T) {
	cfg := simulated.Config{Fail: func(op, _ string) error {
		if op == "start" {
			return fmt.Errorf("exec: \"nope\": not found in $PATH: %w", errdefs.ErrInvalidArgument)
		}
		return nil
	}}
	bubble(t, cfg, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
		r.start()
		if s := m.waitState("t1", failed); !strings.Contains(s.Err, "nope") {
			t.Errorf("error: got %q, want one that names nope", s.Err)
		}
	})
}

func TestWorker_EndedTasksAreCleanedUpOnce(t *testing.T) {
	var removes atomic.Int32
	cfg := simulated.Config{Fail: func(op, _ string) error {
		if op == "remove" {
			removes.Add(1)
		}
		return nil
	}}
	bubble(t, cfg, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
		r.start()
		m.waitState("t1", running)
		r.runtime.End("t1", engine.Exit{})
		m.waitState("t1", complete)
		synctest.Wait()
		r.stop()
		r.start()
		m.waitSession(2)
		synctest.Wait()
		if removes.Load() != 1 || r.w.Tasks() != 1 {
			t.Errorf("%d removals, %d tasks", removes.Load(), r.w.Tasks())
		}
		m.assign(removal(swarmv1.AssignmentRef_TASK, "t1"))
		synctest.Wait()
		if r.w.Tasks() != 0 {
			t.Error("the task is not forgotten")
		}
	})
}

func TestWorker_ImagesToKeepAreFetchedAndReported(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		r.start()
		m.waitSession(1)
		digest := "sha256:" + strings.Repeat("5", 64)
		image := &swarmv1.Image{Id: "i1", Name: "docker.io/library/mine:1", Digest: digest, Loaded: true}
		m.assign(puts(&swarmv1.Assignment{Object: &swarmv1.Assignment_Image{Image: image}})...)
		m.wait("report of the image", func() bool { return slices.Equal(m.images.GetHeld(), []string{digest}) })
	})
}

func TestWorker_ManyTasks(t *testing.T) {
	const n = 1000
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject()}
		for i := range n {
			m.initial = append(m.initial, taskObject(fmt.Sprintf("t%d", i), running))
		}
		r.start()
		m.wait("all running", func() bool { return count(m, running) == n })
		var stops []*swarmv1.Assignment
		for i := range n {
			stops = append(stops, taskObject(fmt.Sprintf("t%d", i), remove))
		}
		m.assign(puts(stops...)...)
		m.wait("all stopped", func() bool { return count(m, shutdown) == n })
		var removals []*swarmv1.AssignmentChange
		for i := range n {
			removals = append(removals, removal(swarmv1.AssignmentRef_TASK, fmt.Sprintf("t%d", i)))
		}
		m.assign(removals...)
		synctest.Wait()
		if left := r.w.Tasks(); left != 0 {
			t.Errorf("%d tasks are left", left)
		}
	})
}

func count(m *manager, state swarmv1.TaskState) int {
	n := 0
	for _, s := range m.statuses {
		if s.State == state {
			n++
		}
	}
	return n
}

// The runtime's process is killed while tasks are prepared, started and stopped. None of them
// fails, and each continues once the runtime is back.
func TestWorker_RuntimeAwayIsNoFailureOfTheTask(t *testing.T) {
	cfg := simulated.Config{Delays: simulated.Delays{Prepare: time.Second, Start: time.Second, Stop: time.Second}}
	for _, c := range []struct {
		name  string
		after time.Duration
		while swarmv1.TaskState
		want  swarmv1.TaskState
	}{
		{"preparing", 500 * time.Millisecond, swarmv1.TaskState_PREPARING, running},
		{"starting", 1500 * time.Millisecond, swarmv1.TaskState_STARTING, running},
		{"stopping", 3000 * time.Millisecond, running, shutdown},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, cfg, []string{"m1"}, func(t *testing.T, r *rig) {
				m := r.managers["m1"]
				m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
				r.start()
				time.Sleep(c.after)
				if c.want == shutdown {
					m.assign(puts(taskObject("t1", shutdown))...)
					time.Sleep(500 * time.Millisecond)
				}
				r.runtime.SetAway(true)
				time.Sleep(time.Minute)
				s := m.status("t1")
				if s.GetState() != c.while {
					t.Errorf("after a minute without the runtime: %v, want %v", s, c.while)
				}
				if c.want == running && !strings.Contains(s.GetErr(), "container runtime does not answer") {
					t.Errorf("the status does not say what is wrong: %v", s)
				}
				r.runtime.SetAway(false)
				if s := m.waitState("t1", c.want); s.Err != "" {
					t.Errorf("status = %v, want no error", s)
				}
				if n := r.runtime.Starts(); n != 1 {
					t.Errorf("%d starts, want 1", n)
				}
			})
		})
	}
}

// A health check that cannot run because the runtime is down counts neither as passed nor as
// failed.
func TestWorker_RuntimeAwayIsNoSickness(t *testing.T) {
	cfg := simulated.Config{Exec: func(context.Context, *swarmv1.ExecStart, engine.ExecStreams) int { return 0 }}
	bubble(t, cfg, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(func(s *swarmv1.ServiceSpec) {
			s.TaskTemplate.ContainerSpec.Healthcheck = &swarmv1.HealthConfig{Test: []string{"CMD", "probe"}, Interval: durationpb.New(time.Second), Retries: 1}
		}), taskObject("t1", running)}
		r.start()
		m.waitState("t1", running)
		r.runtime.SetAway(true)
		time.Sleep(time.Minute)
		r.runtime.SetAway(false)
		time.Sleep(10 * time.Second)
		if s := m.status("t1"); s.GetState() != running || !s.GetReady() {
			t.Errorf("status = %v, want one that runs and is ready", s)
		}
	})
}
