//go:build linux

package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
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

	"swarm/containerd/exit"
	"swarm/containerd/layout"
	"swarm/worker/lease"
)

// recorder is containerd's task service with exit records. It waits for each container itself and
// does not rely on events: while containerd does not answer, events wait in a queue, and a record
// must not wait.
type recorder struct {
	taskapi.TTRPCTaskService
	ctx context.Context // ends with the shim

	mu      sync.Mutex // guards the fields below
	watches map[string]*watch
	setups  []*setup // calls of Create that have not returned, the earliest first
	begun   int      // number of calls of Create so far
	ending  bool     // containerd asked the shim to end while a container was set up
}

// watch is the wait for the exit of one container.
type watch struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when the record is written, or when it is certain that none will be
	bundle string
	output []*output
	lease  string // path of the lease file; empty: none

	mu     sync.Mutex // guards oom and fenced
	oom    bool
	fenced bool // the container was killed because its lease had run out
}

func newRecorder(ctx context.Context) *recorder {
	return &recorder{ctx: ctx, watches: make(map[string]*watch)}
}

// RegisterTTRPC makes the shim serve the recorder instead of the service inside it.
func (r *recorder) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(server, r)
	return nil
}

// Create sets a container up. It continues if the containerd that asked for it is killed: ttrpc
// cancels the call then, and a cancelled runc would leave a container in an unknown state. The next
// containerd may ask for the same container before this call has ended. Its call waits until this
// one has ended.
func (r *recorder) Create(ctx context.Context, req *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	ctx = context.WithoutCancel(ctx)
	s := r.begin(req.ID)
	resp, err := r.createWatched(ctx, req, s)
	givenUp := errors.Is(err, errGivenUp)
	if givenUp {
		log.G(ctx).WithField("id", req.ID).WithError(err).Info("container removed, because containerd abandoned its set-up")
		err = errgrpc.ToGRPC(fmt.Errorf("container %s: %w", req.ID, errGivenUp))
	}
	r.end(ctx, s, givenUp)
	return resp, err
}

// createWatched sets a container up, and starts the goroutine that writes its exit record, and for
// a single-writer task the goroutine that kills it when the lease has run out.
func (r *recorder) createWatched(ctx context.Context, req *taskapi.CreateTaskRequest, s *setup) (*taskapi.CreateTaskResponse, error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	dir := exit.Dir(layout.Exits(layout.StateOfBundle(req.Bundle)))
	if err := dir.Remove(namespace, req.ID); err != nil {
		return nil, err
	}
	w := r.add(req.ID, req.Bundle)
	resp, err := r.createUnlessAbandoned(ctx, req, w, s)
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
	if w.lease != "" {
		go r.fence(watchCtx, req.ID, w)
	}
	return resp, nil
}

// createUnlessAbandoned sets a container up. If containerd wants the container deleted after that,
// or if the bundle is gone or belongs to another container, containerd has abandoned the set-up.
// Then createUnlessAbandoned removes the container, because no other process would ever remove it,
// and returns errGivenUp.
func (r *recorder) createUnlessAbandoned(ctx context.Context, req *taskapi.CreateTaskRequest, w *watch, s *setup) (resp *taskapi.CreateTaskResponse, err error) {
	bundle, err := os.Open(req.Bundle) // It stays open, so that no later folder gets the same inode.
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errGivenUp, err)
	}
	defer bundle.Close()
	if resp, err = r.create(ctx, req, w); err != nil {
		return nil, err
	}
	if err = isStill(req.Bundle, bundle); err == nil {
		w.lease, err = annotation(req.Bundle, layout.LeaseAnnotation)
	}
	if err == nil {
		err = r.settle(s)
	}
	if err != nil {
		_, killed := r.TTRPCTaskService.Kill(ctx, &taskapi.KillRequest{ID: req.ID, Signal: uint32(unix.SIGKILL), All: true})
		_, deleted := r.TTRPCTaskService.Delete(ctx, &taskapi.DeleteRequest{ID: req.ID})
		return nil, errors.Join(errGivenUp, err, killed, deleted)
	}
	return resp, nil
}

// isStill returns an error unless path still leads to the folder that was opened there.
func isStill(path string, opened *os.File) error {
	now, err := os.Stat(path)
	if err != nil {
		return err
	}
	was, err := opened.Stat()
	if err == nil && !os.SameFile(now, was) {
		err = fmt.Errorf("bundle %s is another container's: %w", path, errdefs.ErrNotFound)
	}
	return err
}

// create sets the container up, and starts the goroutines that copy its output (see output).
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

// record waits until the first process of a container has ended, and writes the exit record.
func (r *recorder) record(ctx context.Context, dir exit.Dir, namespace, id string, w *watch) {
	resp, err := r.TTRPCTaskService.Wait(ctx, &taskapi.WaitRequest{ID: id})
	if err != nil {
		return // The container was deleted and never ran.
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

// oomKilled reports whether the kernel killed a process of the container for lack of memory. It
// uses the event of such a kill, if one has arrived, and else asks the cgroup, which normally
// exists until the container is deleted. With the systemd driver the cgroup may be gone earlier.
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

// Wait waits for the end of a process. For a container it returns only when the exit record is
// written.
func (r *recorder) Wait(ctx context.Context, req *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	resp, err := r.TTRPCTaskService.Wait(ctx, req)
	if err == nil && req.ExecID == "" {
		r.awaitRecord(ctx, req.ID)
	}
	return resp, err
}

// State returns the state of a process. It does not say that a container has ended before the exit
// record is written.
func (r *recorder) State(ctx context.Context, req *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	resp, err := r.TTRPCTaskService.State(ctx, req)
	if err == nil && req.ExecID == "" && resp.Status == tasktypes.Status_STOPPED {
		r.awaitRecord(ctx, req.ID)
	}
	return resp, err
}

// Delete deletes a container or a process. For a container it returns when the exit record is
// written or it is certain that none will be, so that a caller that then removes the record finds
// it. If the container is still set up, Delete first waits until that has ended. containerd calls
// Delete when it abandons a set-up, and removes the bundle after that.
func (r *recorder) Delete(ctx context.Context, req *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	if req.ExecID != "" {
		return r.TTRPCTaskService.Delete(ctx, req)
	}
	if err := r.abandon(ctx, req.ID); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("delete container %s, which is still set up: %w", req.ID, err))
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
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		for _, o := range w.output {
			o.end(drain.Done())
		}
	}
	return resp, nil
}

// Shutdown ends the shim if it has no container. While the shim sets a container up, Shutdown only
// notes the request, and the end of the set-up fulfils it. The service inside counts only
// containers that are set up, and would end the shim when there is none.
func (r *recorder) Shutdown(ctx context.Context, req *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	r.mu.Lock()
	busy := len(r.setups) > 0
	r.ending = r.ending || busy
	r.mu.Unlock()
	if busy {
		return &emptypb.Empty{}, nil
	}
	return r.TTRPCTaskService.Shutdown(ctx, req)
}

// Start starts a process. As in Create, it continues if the containerd that asked for it is killed.
// It returns ErrAborted for a container whose lease ran out during the set-up.
func (r *recorder) Start(ctx context.Context, req *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	if w := r.get(req.ID); w != nil && w.lease != "" && req.ExecID == "" && lease.Left(w.lease) <= 0 {
		return nil, errgrpc.ToGRPC(fmt.Errorf("start container %s: no manager has confirmed for the length of the lease that its node is in contact: %w", req.ID, errdefs.ErrAborted))
	}
	return r.TTRPCTaskService.Start(context.WithoutCancel(ctx), req)
}

// awaitRecord waits until the record of a container that has ended is written, or until ctx ends.
func (r *recorder) awaitRecord(ctx context.Context, id string) {
	if w := r.get(id); w != nil {
		select {
		case <-w.done:
		case <-ctx.Done():
		}
	}
}

func (r *recorder) add(id, bundle string) *watch {
	w := &watch{cancel: func() {}, done: make(chan struct{}), bundle: bundle}
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

// publisher forwards the shim's events, after the exit record of an exit is written.
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
			p.rec.awaitRecord(ctx, e.ContainerID)
		}
	}
	return p.Publisher.Publish(ctx, topic, event)
}
