package worker

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"swarm/internal/ident"
	"swarm/internal/private"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/assignment"
	"swarm/worker/lease"
	"swarm/worker/session"
	"swarm/worker/state"
)

// Worker is one node's agent. It implements swarmv1.WorkerServer.
type Worker struct {
	swarmv1.UnimplementedWorkerServer
	cfg  Config
	deps Deps

	state    *state.DB
	objects  *assignment.Set
	managers *session.Client
	lease    *lease.Lease  // of single-writer tasks
	slots    chan struct{} // a token for each container being created, started or removed
	measure  chan struct{} // a token while what lies on the disk is added up
	images   *imageKeeper
	cleaner  *cleaner

	renamed atomic.Pointer[string] // hostname by the managers; nil: they have not said it

	mu    sync.Mutex // guards what follows
	tasks map[string]*taskLoop
	runs  context.Context // of Run, for loops that begin meanwhile; nil when it does not run
	loops sync.WaitGroup  // the tasks' loops
	mem   *state.Saved    // until Run has adopted it
}

var _ swarmv1.WorkerServer = (*Worker)(nil)

// New reads what a former process of this node has left. Nothing happens before Run.
func New(cfg Config, deps Deps) (*Worker, error) {
	cfg, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	if err := deps.validate(); err != nil {
		return nil, err
	}
	if cfg.OS == "" {
		cfg.OS, cfg.Arch = runtime.GOOS, runtime.GOARCH
	}
	st, mem, err := state.Open(cfg.StateDir, cfg.ClusterID, deps.Log)
	if err != nil {
		return nil, err
	}
	w := &Worker{
		cfg: cfg, deps: deps,
		state: st, objects: assignment.New(),
		lease:   lease.New(filepath.Join(cfg.RunDir, "lease", "end"), cfg.SinceBoot),
		slots:   make(chan struct{}, cfg.Starts),
		measure: make(chan struct{}, 1),
		tasks:   map[string]*taskLoop{},
		mem:     mem,
	}
	w.managers = session.New(session.Config{
		MachineID: cfg.MachineID, Addr: cfg.Addr, DataPathAddr: cfg.DataPathAddr, Port: cfg.Port,
		Epoch: mem.Epoch, Index: mem.Index,
		ConnectTimeout: cfg.ConnectTimeout, MaxBackoff: cfg.MaxBackoff, SinceBoot: cfg.SinceBoot,
	}, session.Deps{
		Log: deps.Log, State: st, Lease: w.lease, Images: deps.Images,
		Managers: deps.Managers, Dial: deps.Dial, Renewed: deps.Renewed, Describe: deps.Describe,
		Apply: w.apply, Programmed: deps.Programmed, OnNode: w.onNode, OnContact: deps.OnContact,
	})
	w.images = &imageKeeper{w: w, wake: make(chan struct{}, 1)}
	w.cleaner = newCleaner(w, cfg.Clean, mem)
	return w, nil
}

// Run works until ctx ends, and then leaves the containers running. It runs once.
func (w *Worker) Run(ctx context.Context) error {
	// Containers write to the files there and may give them any mode.
	if err := private.Folder(w.filesRoot()); err != nil {
		return fmt.Errorf("run worker: %w", err)
	}
	// The state is written to the end, also what the loops say while they end.
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	written := make(chan error, 1)
	go func() { written <- w.state.Run(writing) }()

	g, gctx := errgroup.WithContext(ctx)
	w.mu.Lock()
	w.runs = gctx
	w.mu.Unlock()
	if w.deps.Logs != nil {
		g.Go(func() error { return w.deps.Logs.Run(gctx) })
	}
	g.Go(func() error {
		if err := w.adopt(gctx); err != nil {
			return err
		}
		g.Go(func() error { return w.images.run(gctx) })
		g.Go(func() error { return w.cleaner.run(gctx) })
		g.Go(func() error { return w.sweep(gctx) })
		return w.managers.Run(gctx)
	})
	err := g.Wait()
	w.mu.Lock()
	w.runs = nil
	w.mu.Unlock()
	w.loops.Wait()
	stopWriting()
	if werr := <-written; err == nil {
		err = werr
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Close frees the state file. Call it after Run.
func (w *Worker) Close() error { return w.state.Close() }

// Redescribe makes the worker ask for the node's description again and tell the managers.
func (w *Worker) Redescribe() { w.managers.Redescribe() }

// hostname is what the cluster calls this node, as far as a manager has said it.
func (w *Worker) hostname() string {
	if name := w.renamed.Load(); name != nil {
		return *name
	}
	return w.cfg.Hostname
}

// onNode takes over the node's name in the cluster, from which containers and every node's name
// server derive host names, and passes the message on.
func (w *Worker) onNode(update *swarmv1.NodeUpdate) {
	if name := update.GetNode().GetHostname(); ident.CheckHostname(name) == nil {
		w.renamed.Store(&name)
	}
	if w.deps.OnNode != nil {
		w.deps.OnNode(update)
	}
}

// Tasks counts the tasks this node has.
func (w *Worker) Tasks() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.tasks)
}

// Summary is a task of this node in a few words.
type Summary struct {
	TaskID, Service string
	State           swarmv1.TaskState
}

// Summaries lists the tasks of this node, in no order.
func (w *Worker) Summaries() []Summary {
	w.mu.Lock()
	loops := slices.Collect(maps.Values(w.tasks))
	w.mu.Unlock()
	out := make([]Summary, 0, len(loops))
	for _, t := range loops {
		t.mu.Lock()
		s, task := Summary{TaskID: t.id, State: t.status.GetState()}, t.task
		t.mu.Unlock()
		s.Service = w.objects.Revision(task).GetSpec().GetName()
		out = append(out, s)
	}
	return out
}

// Seen returns the store's index of the newest state that this node has acted on, and whether it has
// a session with a manager.
func (w *Worker) Seen() (index uint64, connected bool) { return w.managers.Seen() }

// Refusal returns why the managers do not serve this node, in a manager's words, as when its disk
// was cloned. It is nil when a manager serves the node, and when none has answered.
func (w *Worker) Refusal() error { return w.managers.Refusal() }

// apply acts on a message of the managers. The session has checked its order.
func (w *Worker) apply(msg *swarmv1.Assignments) {
	changes := w.objects.Apply(msg)
	for _, c := range changes {
		if object, ok := c.ForDisk(); ok {
			w.state.SetObject(c.Key.String(), object)
		}
	}
	w.applied(changes)
}

// applied gives the changes to whom they concern: the networks are known before the tasks on them begin.
func (w *Worker) applied(changes []assignment.Change) {
	w.tellTopology(changes)
	var keys, images bool
	for _, c := range changes {
		switch c.Key.Kind {
		case swarmv1.AssignmentRef_TASK:
			w.assign(c.Key.ID, c.Now.GetTask())
		case swarmv1.AssignmentRef_KEY:
			keys = true
		case swarmv1.AssignmentRef_IMAGE:
			images = true
		}
	}
	if keys && w.deps.OnKeys != nil {
		var all []*swarmv1.EncryptionKey
		for _, a := range w.objects.List(swarmv1.AssignmentRef_KEY) {
			all = append(all, a.GetKey())
		}
		w.deps.OnKeys(all)
	}
	if images {
		w.images.look()
	}
}

func (w *Worker) tellTopology(changes []assignment.Change) {
	var told []*swarmv1.AssignmentChange
	for _, c := range changes {
		if c.Key.IsTopology() {
			told = append(told, c.Wire())
		}
	}
	if len(told) > 0 && w.deps.OnTopology != nil {
		w.deps.OnTopology(told)
	}
	w.logBackends(told)
}

// logBackends lets who debugs see when this node heard of a task.
func (w *Worker) logBackends(told []*swarmv1.AssignmentChange) {
	if !w.deps.Log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	for _, c := range told {
		switch c := c.Change.(type) {
		case *swarmv1.AssignmentChange_Put:
			if b := c.Put.GetBackend(); b != nil {
				w.deps.Log.Debug("backend", "task", b.GetTaskId(), "ready", b.GetReady())
			}
		case *swarmv1.AssignmentChange_Remove:
			if c.Remove.Kind == swarmv1.AssignmentRef_BACKEND {
				w.deps.Log.Debug("backend", "task", c.Remove.Id, "ready", false)
			}
		}
	}
}

// assign tells a task's loop what is wanted of it; nil: it is not assigned any more.
func (w *Worker) assign(id string, t *swarmv1.Task) {
	w.mu.Lock()
	loop := w.tasks[id]
	if loop == nil && t != nil {
		loop = newTaskLoop(w, t, nil)
		loop.departs = w.managers.IsDeparting()
		w.tasks[id] = loop
	}
	w.mu.Unlock()
	if loop != nil {
		loop.want(t)
	}
}

// begin runs a task's loop, unless the worker ends.
func (w *Worker) begin(t *taskLoop) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.runs == nil || w.runs.Err() != nil {
		return false
	}
	ctx := w.runs
	w.loops.Go(func() { t.run(ctx) })
	return true
}

// forget drops a task that nobody assigns and of which nothing is left.
func (w *Worker) forget(t *taskLoop) {
	w.mu.Lock()
	if w.tasks[t.id] != t {
		w.mu.Unlock()
		return
	}
	delete(w.tasks, t.id)
	w.mu.Unlock()
	w.managers.Drop(t.id)
	w.state.ForgetTask(t.id)
	if w.deps.Logs != nil {
		w.deps.Logs.Retire(t.id)
	}
}

// task returns a task of this node.
func (w *Worker) task(id string) *taskLoop {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tasks[id]
}

func (w *Worker) filesRoot() string { return filepath.Join(w.cfg.RunDir, "tasks") }
