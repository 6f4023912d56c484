package worker_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
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
		start := time.Now().Add(5 * time.Second)
		m.assign(puts(taskObject("t1", running, func(t *swarmv1.Task) { t.StartAfter = timestamppb.New(start) }))...)
		m.waitState("t1", running)
		if early := time.Until(start); early > 0 {
			t.Errorf("started %s before its time", early)
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
			life := func(worker.Container) (time.Duration, int, bool) { return time.Second, c.code, true }
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
			t.Errorf("err = %q", s.Err)
		}
	})
}

func TestWorker_UnhealthyLeavesTheLoadBalancerBeforeItIsKilled(t *testing.T) {
	var sick atomic.Bool
	cfg := simulated.Config{
		Delays: simulated.Delays{Stop: 2 * time.Second},
		Exec: func(_ context.Context, _ *swarmv1.ExecStart, s worker.ExecStreams) int {
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
	cfg := simulated.Config{Exec: func(context.Context, *swarmv1.ExecStart, worker.ExecStreams) int {
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

func TestWorker_RestartAdoptsWhatRuns(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = append([]*swarmv1.Assignment{revisionObject()}, taskObject("t1", running), taskObject("t2", running), taskObject("t3", isReady))
		r.start()
		m.waitState("t1", running)
		m.waitState("t2", running)
		m.waitState("t3", isReady)
		synctest.Wait()
		r.stop()
		r.runtime.End("t2", worker.Exit{Code: 7})
		stray := worker.Container{Task: &swarmv1.Task{Id: "stray"}, Revision: revisionObject().GetRevision()}
		if err := r.runtime.Prepare(t.Context(), stray); err != nil {
			t.Fatal(err)
		}
		if _, err := r.runtime.Start(t.Context(), "stray"); err != nil {
			t.Fatal(err)
		}
		starts := r.runtime.Starts()
		m.mu.Lock()
		m.refuse = errdefs.ErrUnavailable
		m.history = map[string][]swarmv1.TaskState{}
		m.mu.Unlock()

		r.start()
		time.Sleep(5 * time.Second)
		if _, ok := r.runtime.Container("stray"); !ok {
			t.Error("a container was removed before the managers said which tasks there are")
		}
		m.mu.Lock()
		m.refuse = nil
		m.mu.Unlock()
		s := m.waitState("t2", failed)
		if s.ContainerStatus.ExitCode != 7 {
			t.Errorf("t2: %v", s)
		}
		synctest.Wait()
		if _, ok := r.runtime.Container("stray"); ok {
			t.Error("a container that no task owns was kept")
		}
		if got := r.runtime.Starts(); got != starts {
			t.Errorf("%d containers were started again", got-starts)
		}
		if want := map[string][]swarmv1.TaskState{"t2": {failed}}; !cmp.Equal(m.history, want) {
			t.Errorf("reports after the restart = %v, want %v", m.history, want)
		}
		if kept := r.network.Restored()[1]; len(kept) != 3 || len(kept[0].Networks) != 1 {
			t.Errorf("restored %v", kept)
		}
		m.assign(puts(taskObject("t3", running))...)
		m.waitState("t3", running)
	})
}

func TestWorker_TaskThatHadNotStartedWaitsForTheManagers(t *testing.T) {
	bubble(t, simulated.Config{Delays: simulated.Delays{Prepare: time.Hour}}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
		r.start()
		m.waitState("t1", swarmv1.TaskState_PREPARING)
		r.stop()
		m.initial = nil // it runs elsewhere by now
		r.start()
		m.waitSession(2)
		time.Sleep(2 * time.Hour)
		if r.runtime.Starts() != 0 || r.w.Tasks() != 0 {
			t.Errorf("%d starts, %d tasks: a task was started that this node has no more", r.runtime.Starts(), r.w.Tasks())
		}
	})
}

func TestWorker_GapInAssignmentsReconnects(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		r.start()
		m.waitSession(1)
		time.Sleep(time.Minute)
		m.session.assign(&swarmv1.Assignments{Sequence: 9, Index: 11, Changes: puts(revisionObject(), taskObject("t1", running))})
		m.waitSession(2)
		synctest.Wait()
		if len(m.statuses) != 0 {
			t.Errorf("the worker acted on a message after a gap: %v", m.statuses)
		}
	})
}

func TestWorker_LostManagerFailsOver(t *testing.T) {
	for name, lose := range map[string]struct {
		how   func(*manager)
		limit time.Duration
	}{
		"ends":   {func(m *manager) { m.drop(errdefs.ErrUnavailable) }, 0},
		"silent": {func(m *manager) { m.mu.Lock(); m.deaf = true; m.mu.Unlock() }, 5 * time.Second},
		"jammed": {func(m *manager) { m.mu.Lock(); m.jammed = true; m.mu.Unlock() }, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, simulated.Config{}, []string{"m1", "m2"}, func(t *testing.T, r *rig) {
				objects := []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
				for _, m := range r.managers {
					m.initial = objects
				}
				r.edit = func(_ *worker.Config, d *worker.Deps) {
					d.Describe = func() *swarmv1.NodeDescription { // more than gRPC sends to who does not read
						return &swarmv1.NodeDescription{Hostname: strings.Repeat("h", 128<<10)}
					}
				}
				r.start()
				synctest.Wait()
				first, second := r.managers["m1"], r.managers["m2"]
				if first.sessions == 0 {
					first, second = second, first
				}
				first.waitState("t1", running)
				time.Sleep(time.Minute + time.Second/2)
				began := time.Now()
				lose.how(first)
				for range 2 { // the fake still takes the first
					r.w.Redescribe()
					synctest.Wait()
				}
				second.waitSession(1)
				if took := time.Since(began); took > lose.limit {
					t.Errorf("failed over after %s, want at most %s", took, lose.limit)
				}
				if got := second.hellos[0].SeenIndex; got != 10 {
					t.Errorf("seen index %d, want 10", got)
				}
				synctest.Wait()
				if r.runtime.Starts() != 1 || len(second.reports) != 0 {
					t.Errorf("%d starts, reports %v: nothing has changed", r.runtime.Starts(), second.reports)
				}
			})
		})
	}
}

func TestWorker_UnackedStatusesAreSentAgainOnce(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running), taskObject("t2", running)}
		m.noAck = true
		r.start()
		m.wait("a report", func() bool { return len(m.reports) == 1 })
		time.Sleep(3*time.Second + time.Second/2)
		if len(m.reports) != 1 {
			t.Errorf("%d reports while one is not acknowledged", len(m.reports))
		}
		m.mu.Lock()
		m.noAck = false
		m.mu.Unlock()
		m.drop(errdefs.ErrUnavailable)
		m.waitState("t1", running)
		m.waitState("t2", running)
		time.Sleep(time.Minute)
		m.drop(errdefs.ErrUnavailable)
		m.waitSession(3)
		synctest.Wait()
		for id, h := range m.history {
			if !slices.Equal(h, []swarmv1.TaskState{running}) {
				t.Errorf("%s was reported as %v", id, h)
			}
		}
		if s := m.statuses["t1"]; s.SessionEpoch != 2 {
			t.Errorf("session epoch %d, want 2", s.SessionEpoch)
		}
	})
}

func TestWorker_RefusesStateOlderThanItHasSeen(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		m := r.managers["m1"]
		m.initial = []*swarmv1.Assignment{revisionObject(), taskObject("t1", running)}
		r.start()
		m.waitState("t1", running)
		time.Sleep(time.Minute)
		m.mu.Lock()
		m.index, m.initial = 9, nil
		m.mu.Unlock()
		m.drop(errdefs.ErrUnavailable)
		m.waitSession(3)
		if r.w.Tasks() != 1 {
			t.Fatal("older state took the task away")
		}
		m.mu.Lock()
		m.index, m.cluster = 3, 2 // made anew: indexes of another epoch do not compare
		m.mu.Unlock()
		time.Sleep(10 * time.Second)
		if r.w.Tasks() != 0 {
			t.Error("the new epoch's state was not taken")
		}
	})
}

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
			r.runtime.End("t1", worker.Exit{Code: 1})
			time.Sleep(20 * time.Second)
			if got := r.runtime.Starts(); got != want {
				t.Fatalf("%d starts, want %d", got, want)
			}
		}
		r.runtime.End("t1", worker.Exit{Code: 1})
		time.Sleep(20 * time.Second)
		m.mu.Lock()
		m.refuse = nil
		m.mu.Unlock()
		m.waitState("t1", failed)
	})
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
		cut(7 * time.Second)
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

func TestWorker_RemovedNodeIsTold(t *testing.T) {
	bubble(t, simulated.Config{}, []string{"m1"}, func(t *testing.T, r *rig) {
		r.managers["m1"].removed = true
		told := make(chan *swarmv1.NodeUpdate, 1)
		r.edit = func(_ *worker.Config, d *worker.Deps) {
			d.OnNode = func(u *swarmv1.NodeUpdate) {
				select {
				case told <- u:
				default:
				}
			}
		}
		r.start()
		if u := <-told; !u.Removed {
			t.Errorf("told %v", u)
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
		r.runtime.End("t1", worker.Exit{})
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
		image := &swarmv1.Image{Id: "i1", Name: "docker.io/library/mine:1", Digest: "sha256:5", Loaded: true}
		m.assign(puts(&swarmv1.Assignment{Object: &swarmv1.Assignment_Image{Image: image}})...)
		m.wait("report of the image", func() bool { return slices.Equal(m.images.GetHeld(), []string{"sha256:5"}) })
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
		if err := r.w.Clear(t.Context()); err != nil {
			t.Error(err)
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
