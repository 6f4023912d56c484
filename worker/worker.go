package worker

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"swarm/internal/ident"
	"swarm/internal/private"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/assignment"
	"swarm/worker/lease"
	"swarm/worker/session"
	"swarm/worker/state"
	"swarm/worker/storage"
	"swarm/worker/tasks"
)

// Worker is the agent of one node. It implements swarmv1.WorkerServer. Its methods may be called
// concurrently.
type Worker struct {
	swarmv1.UnimplementedWorkerServer
	cfg  Config
	deps Deps

	state    *state.DB
	objects  *assignment.Set
	managers *session.Client
	tasks    *tasks.Runner
	saved    *state.Saved // of an earlier process, until Run has adopted it
	lease    *lease.Lease // of single-writer tasks
	copies   *storage.Copies
	disk     *storage.Disk
	volumes  *storage.Volumes

	renamed atomic.Pointer[string] // the node's name in the cluster; nil: no manager has said it yet
}

var _ swarmv1.WorkerServer = (*Worker)(nil)

// New returns a Worker that continues with what an earlier process of this node left in
// cfg.StateDir. It fails with ErrInvalidArgument if cfg or deps are incomplete. The Worker does
// nothing before Run. Call Close when it is not needed any more.
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
	st, saved, err := state.Open(cfg.StateDir, cfg.ClusterID, deps.Log)
	if err != nil {
		return nil, err
	}
	w := &Worker{
		cfg: cfg, deps: deps,
		state: st, objects: assignment.New(),
		lease: lease.New(filepath.Join(cfg.RunDir, "lease", "end"), cfg.SinceBoot),
		saved: saved,
	}
	var volumes session.Volumes
	if deps.Storage != nil {
		volumes = deps.Storage.Volumes()
	}
	w.managers = session.New(session.Config{
		MachineID: cfg.MachineID, Addr: cfg.Addr, DataPathAddr: cfg.DataPathAddr, Port: cfg.Port,
		Epoch: saved.Epoch, Index: saved.Index,
		ConnectTimeout: cfg.ConnectTimeout, MaxBackoff: cfg.MaxBackoff, SinceBoot: cfg.SinceBoot,
	}, session.Deps{
		Log: deps.Log, State: st, Lease: w.lease, Images: deps.Images, Volumes: volumes,
		Managers: deps.Managers, Dial: deps.Dial, Renewed: deps.Renewed, Describe: deps.Describe,
		Apply: w.apply, Programmed: deps.Programmed, OnNode: w.onNode, OnContact: deps.OnContact,
	})
	w.tasks = tasks.New(tasks.Config{
		NodeID: cfg.NodeID, OS: cfg.OS, Arch: cfg.Arch, Hostname: cfg.Hostname, Dir: FilesDir(w.cfg.RunDir),
		CgroupParent: cfg.CgroupParent, Starts: cfg.Starts,
	}, tasks.Deps{
		Log: deps.Log, Runtime: deps.Runtime, Executor: deps.Executor, Network: deps.Network, Images: deps.Images, Logs: deps.Logs,
		Objects: w.objects, State: st, Managers: w.managers, LeaseFile: w.lease.File, Hostname: w.hostname,
	})
	w.copies = storage.NewCopies(deps.Log, deps.Images, w.objects)
	w.disk = storage.New(cfg.Clean, storage.Deps{
		Log: deps.Log, Containers: deps.Runtime, Images: deps.Images, Storage: deps.Storage, Space: deps.Space, Logs: deps.Logs,
		Objects: w.objects, State: st, Tasks: w.tasks, Synced: w.managers.Synced(), Conn: w.managers.Conn,
	}, saved)
	w.volumes = storage.NewVolumes(deps.Log, deps.Storage)
	return w, nil
}

// Run runs the node's tasks until ctx ends, and then leaves the containers running. It may be
// called once. It returns nil if ctx has ended, and an error if a part of the worker has failed.
func (w *Worker) Run(ctx context.Context) error {
	// Containers may write to the files in the folder and set their modes. Therefore other users of
	// the host must not enter it.
	if err := private.Folder(FilesDir(w.cfg.RunDir)); err != nil {
		return fmt.Errorf("run worker: %w", err)
	}
	// state.db is written until after the end of ctx, because the task loops still report while
	// they end.
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	written := make(chan error, 1)
	go func() { written <- w.state.Run(writing) }()

	g, gctx := errgroup.WithContext(ctx)
	if w.deps.Logs != nil {
		g.Go(func() error { return w.deps.Logs.Run(gctx) })
	}
	saved := w.saved
	w.saved = nil
	w.tellTopology(w.objects.Restore(saved.Objects))
	// tasks.Run calls startOthers when it has adopted the tasks of the earlier process: a session
	// may change these tasks, and a clean-up must not remove what they use.
	startOthers := func() {
		g.Go(func() error { return w.copies.Run(gctx) })
		g.Go(func() error { return w.disk.Run(gctx) })
		g.Go(func() error { return w.volumes.Run(gctx) })
		g.Go(func() error { return w.managers.Run(gctx) })
	}
	g.Go(func() error { return w.tasks.Run(gctx, saved, startOthers) })
	err := g.Wait()
	stopWriting()
	if werr := <-written; err == nil {
		err = werr
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Close closes the state file. Call it after Run has returned.
func (w *Worker) Close() error { return w.state.Close() }

// Redescribe makes the worker call Deps.Describe again and tell the manager.
func (w *Worker) Redescribe() { w.managers.Redescribe() }

// hostname returns the node's name in the cluster. Until a manager has said it, hostname returns
// the host's name.
func (w *Worker) hostname() string {
	if name := w.renamed.Load(); name != nil {
		return *name
	}
	return w.cfg.Hostname
}

// onNode stores the node's name in the cluster, which containers see, and passes the message to
// Deps.OnNode.
func (w *Worker) onNode(update *swarmv1.NodeUpdate) {
	if name := update.GetNode().GetHostname(); ident.CheckHostname(name) == nil {
		w.renamed.Store(&name)
	}
	if w.deps.OnNode != nil {
		w.deps.OnNode(update)
	}
}

// Tasks returns how many tasks this node has.
func (w *Worker) Tasks() int { return w.tasks.Len() }

// Summaries lists the tasks of this node, in no particular order.
func (w *Worker) Summaries() []tasks.Summary { return w.tasks.Summaries() }

// Seen returns the store's index of the newest state that this node has applied, and whether it
// has a session with a manager.
func (w *Worker) Seen() (index uint64, connected bool) { return w.managers.Seen() }

// Refusal returns why the managers do not serve this node, in a manager's words: for example, its
// disk is a copy of another node's disk. It is nil if a manager serves the node, and if no manager
// has answered yet.
func (w *Worker) Refusal() error { return w.managers.Refusal() }

// apply acts on a message of the managers. The session has checked its order, age and form.
func (w *Worker) apply(msg *swarmv1.Assignments) {
	changes := w.objects.Apply(msg)
	for _, c := range changes {
		if object, stored := c.ForDisk(); stored {
			w.state.SetObject(c.Key.String(), object)
		}
	}
	w.distribute(changes)
}

// distribute gives the changes to the parts that they concern. Topology comes first, so that
// networks are known before the tasks on them begin.
func (w *Worker) distribute(changes []assignment.Change) {
	w.tellTopology(changes)
	var keys, images bool
	for _, c := range changes {
		switch c.Key.Kind {
		case swarmv1.AssignmentRef_TASK:
			w.tasks.Assign(c.Key.ID, c.Now.GetTask())
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
		w.copies.Wake()
	}
}

// tellTopology passes the changes of the cluster's networks to Deps.OnTopology.
func (w *Worker) tellTopology(changes []assignment.Change) {
	var topology []*swarmv1.AssignmentChange
	for _, c := range changes {
		if c.Key.IsTopology() {
			topology = append(topology, c.Wire())
		}
	}
	if len(topology) > 0 && w.deps.OnTopology != nil {
		w.deps.OnTopology(topology)
	}
	w.logBackends(topology)
}

// logBackends logs each change of a backend at the debug level, to show when this node received it.
func (w *Worker) logBackends(topology []*swarmv1.AssignmentChange) {
	if !w.deps.Log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	for _, c := range topology {
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

// FilesDir returns the folder in a run folder that has the tasks' small files. When no Worker runs,
// it may be removed.
func FilesDir(runDir string) string { return filepath.Join(runDir, "tasks") }

// Announce tells the managers that this node goes away. They count it as down and replace its
// tasks at once. Announce returns when a manager has acknowledged it, after 3 s, or when ctx ends.
// Call it while Run runs, and then end Run. Tasks that managers assign after the call do not start.
func (w *Worker) Announce(ctx context.Context) { w.managers.AnnounceDeparture(ctx) }

// Depart calls Announce, because the host goes down, and stops every task with its signal and its
// grace period. It returns nil when all tasks have ended, or an error if ctx ends first.
func (w *Worker) Depart(ctx context.Context) error {
	w.Announce(ctx)
	if err := w.tasks.StopAll(ctx); err != nil {
		return err
	}
	w.managers.Flush(ctx)
	return nil
}

// Disk returns the service with which managers look at the node's disk and clean it.
func (w *Worker) Disk() swarmv1.DiskServer { return w.disk }

// Volumes returns the service with which managers make and remove the node's volumes.
func (w *Worker) Volumes() swarmv1.NodeVolumesServer { return w.volumes }
