//go:build linux

package shim

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/containerd/exit"
	"swarm/containerd/layout"
)

// fakeTasks is a task service with one container.
type fakeTasks struct {
	taskapi.TTRPCTaskService
	createErr error
	creating  func(context.Context) // what happens while a container is set up
	stats     any
	done      []string

	mu     sync.Mutex // guards held, status and, in methods that may run at the same time, done
	held   int        // containers
	status uint32
	exited chan struct{}
}

func (f *fakeTasks) end(status uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = status
	close(f.exited)
}

func (f *fakeTasks) Create(ctx context.Context, _ *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if f.creating != nil {
		f.creating(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.createErr == nil {
		f.held++
	}
	return &taskapi.CreateTaskResponse{}, f.createErr
}

func (f *fakeTasks) Start(ctx context.Context, _ *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	return &taskapi.StartResponse{}, ctx.Err()
}

func (f *fakeTasks) Wait(ctx context.Context, _ *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	select {
	case <-f.exited:
		f.mu.Lock()
		defer f.mu.Unlock()
		return &taskapi.WaitResponse{ExitStatus: f.status, ExitedAt: timestamppb.Now()}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *fakeTasks) State(context.Context, *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	select {
	case <-f.exited:
		return &taskapi.StateResponse{Status: tasktypes.Status_STOPPED}, nil
	default:
		return &taskapi.StateResponse{Status: tasktypes.Status_RUNNING}, nil
	}
}

func (f *fakeTasks) Delete(context.Context, *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held == 0 {
		return nil, errdefs.ErrNotFound
	}
	f.held--
	f.done = append(f.done, "delete")
	return &taskapi.DeleteResponse{}, nil
}

func (f *fakeTasks) Kill(context.Context, *taskapi.KillRequest) (*emptypb.Empty, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = append(f.done, "kill")
	return &emptypb.Empty{}, nil
}

func (f *fakeTasks) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held == 0 { // as containerd's shim judges
		f.done = append(f.done, "shutdown")
	}
	return &emptypb.Empty{}, nil
}

func (f *fakeTasks) Stats(context.Context, *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	if f.stats == nil {
		return nil, errdefs.ErrNotFound
	}
	a, err := typeurl.MarshalAnyToProto(f.stats)
	return &taskapi.StatsResponse{Stats: a}, err
}

// silentPublisher is a containerd that never answers.
type silentPublisher struct{}

func (silentPublisher) Publish(ctx context.Context, _ string, _ events.Event) error {
	<-ctx.Done()
	return ctx.Err()
}
func (silentPublisher) Close() error { return nil }

func setUp(t *testing.T, f *fakeTasks) (*recorder, context.Context, exit.Dir, *taskapi.CreateTaskRequest) {
	t.Helper()
	f.exited = make(chan struct{})
	state := t.TempDir()
	bundle := filepath.Join(layout.Bundles(state), layout.Namespace, "c1")
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRecorder(t.Context())
	r.TTRPCTaskService = f
	return r, namespaces.WithNamespace(t.Context(), layout.Namespace), exit.Dir(layout.Exits(state)),
		&taskapi.CreateTaskRequest{ID: "c1", Bundle: bundle}
}

func TestRecorder_WhoeverLearnsOfAnExitFindsItsRecord(t *testing.T) {
	for name, learn := range map[string]func(context.Context, *recorder) error{
		"wait": func(ctx context.Context, r *recorder) error {
			_, err := r.Wait(ctx, &taskapi.WaitRequest{ID: "c1"})
			return err
		},
		"state": func(ctx context.Context, r *recorder) error {
			_, err := r.State(ctx, &taskapi.StateRequest{ID: "c1"})
			return err
		},
		"delete": func(ctx context.Context, r *recorder) error {
			_, err := r.Delete(ctx, &taskapi.DeleteRequest{ID: "c1"})
			return err
		},
		"event": func(ctx context.Context, r *recorder) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			err := publisher{silentPublisher{}, r}.Publish(ctx, "/tasks/exit", &eventstypes.TaskExit{ContainerID: "c1", ID: "c1"})
			if errors.Is(err, context.DeadlineExceeded) {
				return nil // as deaf as it should be
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeTasks{}
				r, ctx, dir, req := setUp(t, f)
				if _, err := r.Create(ctx, req); err != nil {
					t.Fatal(err)
				}
				f.end(5)
				if err := learn(ctx, r); err != nil {
					t.Fatal(err)
				}
				if got, err := dir.Read(layout.Namespace, "c1"); err != nil || got.Status != 5 {
					t.Errorf("record: got %+v, %v, want status 5", got, err)
				}
			})
		})
	}
}

func TestRecorder_NoRecordComesAfterADeletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeTasks{}
		r, ctx, dir, req := setUp(t, f)
		if _, err := r.Create(ctx, req); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Delete(ctx, &taskapi.DeleteRequest{ID: "c1"}); err != nil { // never started
			t.Fatal(err)
		}
		f.end(0)
		synctest.Wait()
		if got, err := dir.Read(layout.Namespace, "c1"); !errdefs.IsNotFound(err) {
			t.Errorf("record: got %+v, %v, want none", got, err)
		}
		if len(r.watches) != 0 {
			t.Errorf("watches: got %d, want none", len(r.watches))
		}
	})
}

func TestRecorder_CreationForgetsANamesake(t *testing.T) {
	f := &fakeTasks{createErr: errdefs.ErrUnavailable}
	r, ctx, dir, req := setUp(t, f)
	if err := dir.Write(layout.Namespace, "c1", exit.Record{Status: 9}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Create(ctx, req); !errdefs.IsUnavailable(err) {
		t.Fatalf("create: got %v, want unavailable", err)
	}
	if got, err := dir.Read(layout.Namespace, "c1"); !errdefs.IsNotFound(err) {
		t.Errorf("record: got %+v, %v, want none", got, err)
	}
	if len(r.watches) != 0 {
		t.Errorf("watches after a failed creation: got %d, want none", len(r.watches))
	}
}

// A containerd that abandons a container during its set-up removes the bundle, and forgets the
// container.
func TestRecorder_TakesAwayWhatNobodyWaitsFor(t *testing.T) {
	f := &fakeTasks{}
	r, ctx, _, req := setUp(t, f)
	f.creating = func(context.Context) {
		if err := os.RemoveAll(req.Bundle); err != nil {
			t.Error(err)
		}
	}
	if _, err := r.Create(ctx, req); !errdefs.IsUnavailable(errgrpc.ToNative(err)) {
		t.Errorf("create: got %v, want unavailable", err)
	}
	if diff := cmp.Diff([]string{"kill", "delete", "shutdown"}, f.done); diff != "" {
		t.Errorf("done (-want +got):\n%s", diff)
	}
	if len(r.watches) != 0 {
		t.Errorf("watches: got %d, want none", len(r.watches))
	}
}

// ttrpc cancels the calls of a containerd that is killed. If runc were killed with its call, the
// container would be left in an unknown state.
func TestRecorder_CallsOutliveWhoeverMadeThem(t *testing.T) {
	f := &fakeTasks{}
	r, ctx, _, req := setUp(t, f)
	ctx, cancel := context.WithCancel(ctx)
	f.creating = func(ctx context.Context) {
		cancel()
		if ctx.Err() != nil {
			t.Errorf("create: its context ended with the caller's: %v", ctx.Err())
		}
	}
	if _, err := r.Create(ctx, req); err != nil {
		t.Errorf("create: %v", err)
	}
	if _, err := r.Start(ctx, &taskapi.StartRequest{ID: req.ID}); err != nil {
		t.Errorf("start: %v", err)
	}
}

// A containerd that was killed during the set-up of a container is followed by one that abandons
// the container and asks for it again, in a bundle of the same name, while the first call still
// runs. The first container is removed before the second is set up, and the shim does not end in
// between.
func TestRecorder_SetsAContainerUpOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeTasks{}
		r, ctx, _, req := setUp(t, f)
		calls, first := 0, make(chan struct{})
		f.creating = func(context.Context) {
			f.done = append(f.done, "create")
			if calls++; calls == 1 {
				<-first
			}
		}
		errs := make(chan error, 1)
		go func() {
			_, err := r.Create(ctx, req)
			errs <- err
		}()
		synctest.Wait()
		if _, err := r.Shutdown(ctx, &taskapi.ShutdownRequest{}); err != nil {
			t.Fatal(err)
		}
		config, err := os.ReadFile(filepath.Join(req.Bundle, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.RemoveAll(req.Bundle), os.Mkdir(req.Bundle, 0o755), os.WriteFile(filepath.Join(req.Bundle, "config.json"), config, 0o600)); err != nil {
			t.Fatal(err)
		}
		second := make(chan error, 1)
		go func() {
			_, err := r.Create(ctx, req)
			second <- err
		}()
		synctest.Wait()
		close(first)
		if err := <-errs; !errdefs.IsUnavailable(errgrpc.ToNative(err)) {
			t.Errorf("the first: %v, want unavailable", err)
		}
		if err := <-second; err != nil {
			t.Errorf("the second: %v", err)
		}
		if diff := cmp.Diff([]string{"create", "kill", "delete", "create"}, f.done); diff != "" {
			t.Errorf("done (-want +got):\n%s", diff)
		}
		f.end(0)
		synctest.Wait()
	})
}

// containerd asks the shim to end when it abandons the first container of the shim, and asks only
// once. The set-up of that container may fail later, because containerd has unmounted its files.
func TestRecorder_EndsWhenAnAbandonedSetUpFails(t *testing.T) {
	f := &fakeTasks{createErr: errdefs.ErrNotFound}
	r, ctx, _, req := setUp(t, f)
	f.creating = func(context.Context) {
		if _, err := r.Shutdown(ctx, &taskapi.ShutdownRequest{ID: req.ID}); err != nil {
			t.Error(err)
		}
		if len(f.done) != 0 {
			t.Errorf("during the set-up: got %v, want nothing", f.done)
		}
	}
	if _, err := r.Create(ctx, req); !errdefs.IsNotFound(err) {
		t.Errorf("create: got %v, want not found", err)
	}
	if diff := cmp.Diff([]string{"shutdown"}, f.done); diff != "" {
		t.Errorf("done (-want +got):\n%s", diff)
	}
}

// containerd deletes the container before it removes the bundle, so the bundle may still be there
// when the set-up has ended.
func TestRecorder_RemovesAContainerThatWasDeletedDuringItsSetUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeTasks{}
		r, ctx, _, req := setUp(t, f)
		deleted := make(chan error, 1)
		f.creating = func(context.Context) {
			go func() {
				_, err := r.Delete(ctx, &taskapi.DeleteRequest{ID: req.ID})
				deleted <- err
			}()
			synctest.Wait()
			select {
			case <-deleted:
				t.Error("delete returned during the set-up, when the container's files are in use")
			default:
			}
		}
		if _, err := r.Create(ctx, req); !errdefs.IsUnavailable(errgrpc.ToNative(err)) {
			t.Errorf("create: got %v, want unavailable", err)
		}
		if err := <-deleted; !errdefs.IsNotFound(err) {
			t.Errorf("delete: got %v, want not found", err)
		}
		if diff := cmp.Diff([]string{"kill", "delete", "shutdown"}, f.done); diff != "" {
			t.Errorf("done (-want +got):\n%s", diff)
		}
	})
}

func TestRecorder_EndsAShimThatNobodyUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeTasks{}
		r, ctx, _, req := setUp(t, f)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if _, err := r.Create(ctx, req); err != nil {
			t.Fatal(err)
		}
		go r.endWhenIdle(ctx)
		wait := func(what string, want ...string) {
			t.Helper()
			time.Sleep(3*idleTimeout + time.Second)
			synctest.Wait()
			if diff := cmp.Diff(want, slices.Compact(f.done)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		wait("container")
		if err := os.RemoveAll(req.Bundle); err != nil {
			t.Fatal(err)
		}
		wait("container that runs, without a bundle")
		f.end(137)
		wait("container that has ended, without a bundle", "delete", "shutdown")
	})
}

func TestRecorder_FindsOutWhetherMemoryRanOut(t *testing.T) {
	for name, c := range map[string]struct {
		stats any
		event bool
		want  bool
	}{
		"cgroup v1, killed":       {stats: &cgroup1.Metrics{MemoryOomControl: &cgroup1.MemoryOomControl{OomKill: 1}}, want: true},
		"cgroup v1, not killed":   {stats: &cgroup1.Metrics{MemoryOomControl: &cgroup1.MemoryOomControl{}}},
		"cgroup v1, no memory":    {stats: &cgroup1.Metrics{}},
		"cgroup v2, killed":       {stats: &cgroup2.Metrics{MemoryEvents: &cgroup2.MemoryEvents{OomKill: 2}}, want: true},
		"cgroup v2, not killed":   {stats: &cgroup2.Metrics{MemoryEvents: &cgroup2.MemoryEvents{Oom: 1}}},
		"cgroup gone, event came": {event: true, want: true},
		"cgroup gone, no event":   {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeTasks{stats: c.stats}
				r, ctx, dir, req := setUp(t, f)
				if _, err := r.Create(ctx, req); err != nil {
					t.Fatal(err)
				}
				if c.event {
					ended, cancel := context.WithCancel(ctx)
					cancel()
					_ = publisher{silentPublisher{}, r}.Publish(ended, "/tasks/oom", &eventstypes.TaskOOM{ContainerID: "c1"})
				}
				f.end(137)
				synctest.Wait()
				if got, err := dir.Read(layout.Namespace, "c1"); err != nil || got.OOM != c.want {
					t.Errorf("record: got %+v, %v, want OOM %v", got, err, c.want)
				}
			})
		})
	}
}
