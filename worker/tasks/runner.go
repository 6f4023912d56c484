package tasks

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/assignment"
	"swarm/worker/engine"
	"swarm/worker/session"
	"swarm/worker/state"
)

// Config describes the node to a Runner.
type Config struct {
	// NodeID, OS and Arch are for templates and for the containers.
	NodeID, OS, Arch string
	// Hostname is the name of the host, for containers in the host's network namespace.
	Hostname string
	// Dir is the folder of the tasks' small files: resolv.conf, hosts and hostname. It must exist,
	// and should be in memory.
	Dir string
	// CgroupParent is the cgroup under which the runtime puts the containers.
	CgroupParent string
	// Starts is how many containers are created, started or removed at the same time. It must be at
	// least 1.
	Starts int
}

// Images fetches the images of tasks.
type Images interface {
	// Pull is engine.Images.Pull.
	Pull(ctx context.Context, req engine.PullRequest, progress func(*swarmv1.ImageProgress)) (*swarmv1.Image, error)
}

// Deps are the live objects that a Runner works with.
type Deps struct {
	Log      *slog.Logger
	Runtime  engine.Runtime
	Executor engine.Executor
	Network  engine.Network
	Images   Images
	// Logs keeps the output of containers. Nil: nothing does.
	Logs     engine.LogStore
	Objects  *assignment.Set
	State    *state.DB
	Managers *session.Client
	// LeaseFile returns the path of the file with the end of the node's lease; see package lease.
	LeaseFile func() (string, error)
	// Hostname returns the node's name in the cluster.
	Hostname func() string
}

// Runner runs the tasks of a node. Its methods may be called concurrently.
type Runner struct {
	cfg     Config
	deps    Deps
	permits chan struct{} // a token for each container that is being created, started or removed

	mu    sync.Mutex // guards tasks and ctx
	tasks map[string]*taskLoop
	// ctx is the context of Run; nil while Run does not run. It is kept because a loop begins in
	// calls of Assign and StopAll, often and at any time, but must end with Run.
	ctx context.Context

	loops sync.WaitGroup // the loops that run
}

// New returns a Runner without tasks. It does nothing before Run.
func New(cfg Config, deps Deps) *Runner {
	return &Runner{cfg: cfg, deps: deps, permits: make(chan struct{}, cfg.Starts), tasks: map[string]*taskLoop{}}
}

// Run adopts the tasks that an earlier process left, calls adopted, and runs tasks until ctx ends.
// Then it waits for all loops, and leaves the containers running. It returns an error only if the
// network could not be restored before ctx ended.
func (r *Runner) Run(ctx context.Context, saved *state.Saved, adopted func()) error {
	r.mu.Lock()
	r.ctx = ctx
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.ctx = nil
		r.mu.Unlock()
		r.loops.Wait()
	}()
	if err := r.adopt(ctx, saved); err != nil {
		return err
	}
	adopted()
	r.afterFirstSet(ctx)
	<-ctx.Done()
	return nil
}

// Assign tells a task's loop what the managers want of the task, and begins a loop if there is
// none. A nil task is not assigned any more: it is stopped and removed.
func (r *Runner) Assign(id string, t *swarmv1.Task) {
	r.mu.Lock()
	loop := r.tasks[id]
	if loop == nil && t != nil {
		loop = newTaskLoop(r, t, nil)
		loop.departing = r.deps.Managers.IsDeparting()
		r.tasks[id] = loop
	}
	r.mu.Unlock()
	if loop != nil {
		loop.setAssigned(t)
	}
}

// begin runs a task's loop. It returns false if Run has ended or is about to.
func (r *Runner) begin(t *taskLoop) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx == nil || r.ctx.Err() != nil {
		return false
	}
	ctx := r.ctx
	r.loops.Go(func() { t.run(ctx) })
	return true
}

// forget removes a task that is not assigned any more and of which nothing is left.
func (r *Runner) forget(t *taskLoop) {
	r.mu.Lock()
	if r.tasks[t.id] != t {
		r.mu.Unlock()
		return
	}
	delete(r.tasks, t.id)
	r.mu.Unlock()
	r.deps.Managers.Drop(t.id)
	r.deps.State.ForgetTask(t.id)
	if r.deps.Logs != nil {
		r.deps.Logs.Retire(t.id)
	}
}

// task returns the loop of a task; nil: the node does not have the task.
func (r *Runner) task(id string) *taskLoop {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tasks[id]
}

// Len returns how many tasks the node has, those that have ended included.
func (r *Runner) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.tasks)
}

// Summary describes a task in a few words.
type Summary struct {
	TaskID, Service string
	State           swarmv1.TaskState
}

// Summaries lists the tasks of the node, in no particular order.
func (r *Runner) Summaries() []Summary {
	r.mu.Lock()
	loops := slices.Collect(maps.Values(r.tasks))
	r.mu.Unlock()
	out := make([]Summary, 0, len(loops))
	for _, t := range loops {
		t.mu.Lock()
		s, task := Summary{TaskID: t.id, State: t.status.GetState()}, t.task
		t.mu.Unlock()
		s.Service = r.deps.Objects.Revision(task).GetSpec().GetName()
		out = append(out, s)
	}
	return out
}

// Has reports whether the node has the task: the task is assigned, or a part of it is still to be
// removed.
func (r *Runner) Has(taskID string) bool { return r.task(taskID) != nil }

// IsLive reports whether the node has the task and the task may have a container, now or later.
func (r *Runner) IsLive(taskID string) bool {
	t := r.task(taskID)
	return t != nil && !t.isOver()
}
