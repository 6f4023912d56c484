//go:build linux

package shim

import (
	"context"
	"errors"
	"fmt"
	"sync"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"swarm/worker/containerd/exit"
	"swarm/worker/containerd/layout"
)

// recorder is the task service with exit records. It waits for every container
// itself rather than listen to events: those queue behind one another while
// containerd does not answer, and a record must not.
type recorder struct {
	taskapi.TTRPCTaskService
	ctx context.Context // the shim's life, not a call's

	mu      sync.Mutex // guards watches
	watches map[string]*watch
}

// watch is the wait for one container's exit.
type watch struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when the record stands, or never will
	output []*output

	mu     sync.Mutex // guards the rest
	oom    bool
	fenced bool // killed because its lease had run out
}

func newRecorder(ctx context.Context) *recorder {
	return &recorder{ctx: ctx, watches: make(map[string]*watch)}
}

// RegisterTTRPC makes the recorder, not the service inside it, what the shim serves.
func (r *recorder) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(server, r)
	return nil
}

func (r *recorder) Create(ctx context.Context, req *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	dir := exit.Dir(layout.Exits(layout.StateOfBundle(req.Bundle)))
	if err := dir.Remove(namespace, req.ID); err != nil {
		return nil, err
	}
	w := r.add(req.ID)
	resp, err := r.create(ctx, req, w)
	var leased string
	if err == nil {
		if leased, err = annotation(req.Bundle, layout.LeaseAnnotation); err != nil {
			err = r.disown(ctx, req, err)
		}
	}
	if err != nil {
		r.forget(req.ID, w)
		close(w.done)
		return nil, err
	}
	watchCtx, cancel := context.WithCancel(namespaces.WithNamespace(context.WithoutCancel(r.ctx), namespace))
	w.cancel = cancel
	go func() {
		defer close(w.done)
		defer cancel()
		r.record(watchCtx, dir, namespace, req.ID, w)
	}()
	if leased != "" {
		go r.fence(watchCtx, leased, req.ID, w)
	}
	return resp, nil
}

// disown takes a container away again whose bundle cannot be read. containerd gave it up while it was set up, as a rule, and
// removed the bundle: nobody else would ever end the container, nor this shim.
func (r *recorder) disown(ctx context.Context, req *taskapi.CreateTaskRequest, unread error) error {
	ctx = context.WithoutCancel(ctx)
	_, killed := r.TTRPCTaskService.Kill(ctx, &taskapi.KillRequest{ID: req.ID, Signal: uint32(unix.SIGKILL), All: true})
	_, deleted := r.TTRPCTaskService.Delete(ctx, &taskapi.DeleteRequest{ID: req.ID})
	_, shut := r.TTRPCTaskService.Shutdown(ctx, &taskapi.ShutdownRequest{ID: req.ID}) // unless it has others
	log.G(ctx).WithField("id", req.ID).WithError(errors.Join(unread, killed, deleted, shut)).Info("container given up while it was set up")
	return errgrpc.ToGRPC(fmt.Errorf("container %s was given up while it was set up: %w", req.ID, errdefs.ErrUnavailable))
}

// create has the container's output carried by this shim's own outputs.
func (r *recorder) create(ctx context.Context, req *taskapi.CreateTaskRequest, w *watch) (_ *taskapi.CreateTaskResponse, err error) {
	if w.output, err = divert(req); err != nil {
		return nil, err
	}
	resp, err := r.TTRPCTaskService.Create(ctx, req)
	for _, o := range w.output {
		if err != nil {
			o.close()
			continue
		}
		o.begin()
		go o.run()
	}
	return resp, err
}

// record waits for a container's first process to end and writes down how.
func (r *recorder) record(ctx context.Context, dir exit.Dir, namespace, id string, w *watch) {
	resp, err := r.TTRPCTaskService.Wait(ctx, &taskapi.WaitRequest{ID: id})
	if err != nil {
		return // deleted without having run
	}
	rec := exit.Record{
		Status:   resp.ExitStatus,
		ExitedAt: resp.ExitedAt.AsTime(),
		OOM:      r.oomKilled(ctx, id, w),
	}
	w.mu.Lock()
	rec.Fenced = w.fenced
	w.mu.Unlock()
	if err := dir.Write(namespace, id, rec); err != nil {
		log.G(ctx).WithError(err).WithField("id", id).Error("exit is not recorded")
	}
}

// oomKilled asks the container's cgroup, which still stands when its processes
// have ended. With the systemd driver it may not: then an event that came in
// time has to do.
func (r *recorder) oomKilled(ctx context.Context, id string, w *watch) bool {
	w.mu.Lock()
	seen := w.oom
	w.mu.Unlock()
	if seen {
		return true
	}
	resp, err := r.TTRPCTaskService.Stats(ctx, &taskapi.StatsRequest{ID: id})
	if err != nil {
		return false
	}
	stats, err := typeurl.UnmarshalAny(resp.Stats)
	if err != nil {
		return false
	}
	switch s := stats.(type) {
	case *cgroup1.Metrics:
		return s.GetMemoryOomControl().GetOomKill() > 0
	case *cgroup2.Metrics:
		return s.GetMemoryEvents().GetOomKill() > 0
	}
	return false
}

func (r *recorder) Wait(ctx context.Context, req *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	resp, err := r.TTRPCTaskService.Wait(ctx, req)
	if err == nil && req.ExecID == "" {
		r.settle(ctx, req.ID)
	}
	return resp, err
}

func (r *recorder) State(ctx context.Context, req *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	resp, err := r.TTRPCTaskService.State(ctx, req)
	if err == nil && req.ExecID == "" && resp.Status == tasktypes.Status_STOPPED {
		r.settle(ctx, req.ID)
	}
	return resp, err
}

// Delete returns when the container's record stands or never will, so that
// whoever removes the record afterwards removes it for good.
func (r *recorder) Delete(ctx context.Context, req *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	if req.ExecID != "" {
		return r.TTRPCTaskService.Delete(ctx, req)
	}
	w := r.get(req.ID)
	if _, err := r.State(ctx, &taskapi.StateRequest{ID: req.ID}); err != nil {
		log.G(ctx).WithError(err).WithField("id", req.ID).Debug("state before deletion")
	}
	resp, err := r.TTRPCTaskService.Delete(ctx, req)
	if err != nil {
		return nil, err
	}
	if w != nil {
		w.cancel()
		<-w.done
		r.forget(req.ID, w)
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		defer cancel()
		for _, o := range w.output {
			o.end(patience.Done())
		}
	}
	return resp, nil
}

// Shutdown is spelt out because the embedded interface would hide that a shim
// in use refuses it: the service inside counts its containers.
func (r *recorder) Shutdown(ctx context.Context, req *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	return r.TTRPCTaskService.Shutdown(ctx, req)
}

// settle returns when a container that has ended has its record, or when the
// caller gives up.
func (r *recorder) settle(ctx context.Context, id string) {
	if w := r.get(id); w != nil {
		select {
		case <-w.done:
		case <-ctx.Done():
		}
	}
}

func (r *recorder) add(id string) *watch {
	w := &watch{cancel: func() {}, done: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watches[id] = w
	return w
}

func (r *recorder) get(id string) *watch {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.watches[id]
}

func (r *recorder) forget(id string, w *watch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.watches[id] == w {
		delete(r.watches, id)
	}
}

// publisher forwards the shim's events, after the record of what they tell.
type publisher struct {
	shim.Publisher
	rec *recorder
}

func (p publisher) Publish(ctx context.Context, topic string, event events.Event) error {
	switch e := event.(type) {
	case *eventstypes.TaskOOM:
		if w := p.rec.get(e.ContainerID); w != nil {
			w.mu.Lock()
			w.oom = true
			w.mu.Unlock()
		}
	case *eventstypes.TaskExit:
		if e.ID == e.ContainerID {
			p.rec.settle(ctx, e.ContainerID)
		}
	}
	return p.Publisher.Publish(ctx, topic, event)
}
