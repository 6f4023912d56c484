// Package simulated is a container engine without containers. It keeps their state in memory, for
// tests and for benchmarks with thousands of tasks.
//
// Runtime implements engine.Runtime and engine.Executor, Images implements engine.ImageStore, and
// Network implements engine.Network. Delays and failures can be set. The package does no I/O and
// runs no goroutine; a container that ends by itself is a timer. cmd uses it for benchmarks, and
// the tests of worker and manager use it directly.
package simulated

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Delays are how long the operations take. Zero values take no time.
type Delays struct {
	Prepare, Start, Remove time.Duration
	// Stop is how long a container takes to obey its stop signal. If that is longer than its grace
	// period, it is killed.
	Stop time.Duration
}

// Config is the configuration of a Runtime. The functions are optional.
type Config struct {
	Delays Delays
	// Fail returns the error of an operation ("prepare", "start", "update", "exchange",
	// "signal", "stop", "remove" or "exec") on a task; nil: it succeeds.
	Fail func(op, taskID string) error
	// Life says after what time and with which code a container ends by itself; false: it runs
	// until it is stopped.
	Life func(c engine.Container) (after time.Duration, code int, ends bool)
	// Defaults returns what the container's image asks for.
	Defaults func(c engine.Container) engine.ImageDefaults
	// Obey returns how long a container takes to obey its stop signal, in place of Delays.Stop.
	Obey func(c engine.Container) time.Duration
	// Exec acts as a process in a container and returns its exit code.
	Exec func(ctx context.Context, start *swarmv1.ExecStart, streams engine.ExecStreams) int
	// Dial connects to a port of a container that runs. If it is nil, no program listens.
	Dial func(ctx context.Context, taskID string, port uint16) (net.Conn, error)
}

// Runtime holds containers that exist in memory only. It survives the Worker that uses it, as
// containerd does.
type Runtime struct {
	cfg    Config
	images *Images

	mu         sync.Mutex // guards what follows
	containers map[string]*container
	pid        uint32
	starts     int
	away       bool
	back       chan struct{} // closed when away ends
}

type container struct {
	c       engine.Container
	limits  *swarmv1.ResourceRequirements
	signals []string
	started bool
	pid     uint32
	end     *time.Timer
	exited  chan struct{} // closed when exit is known
	exit    engine.Exit   // read after exited
}

var (
	_ engine.Runtime  = (*Runtime)(nil)
	_ engine.Executor = (*Runtime)(nil)
)

// New returns a Runtime that runs the images which images holds; nil: any image.
func New(cfg Config, images *Images) *Runtime {
	return &Runtime{cfg: cfg, images: images, containers: map[string]*container{}, pid: 1000}
}

func (r *Runtime) fail(op, taskID string) error {
	if err := r.answers(); err != nil {
		return err
	}
	if r.cfg.Fail == nil {
		return nil
	}
	return r.cfg.Fail(op, taskID)
}

// SetAway makes the runtime go away, like a process that was killed, or come back. Its containers
// run on while it is away. Calls in progress take effect but return ErrRuntimeAway.
func (r *Runtime) SetAway(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case away && !r.away:
		r.back = make(chan struct{})
	case !away && r.away:
		close(r.back)
	}
	r.away = away
}

// answers returns engine.ErrRuntimeAway while the runtime is away.
func (r *Runtime) answers() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		return engine.ErrRuntimeAway
	}
	return nil
}

// whenBack returns when the runtime is not away.
func (r *Runtime) whenBack(ctx context.Context) error {
	r.mu.Lock()
	away, back := r.away, r.back
	r.mu.Unlock()
	if !away {
		return nil
	}
	select {
	case <-back:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Prepare implements engine.Runtime.
func (r *Runtime) Prepare(ctx context.Context, c engine.Container) (err error) {
	defer func() { err = cmp.Or(r.answers(), err) }()
	if err := r.fail("prepare", c.Task.Id); err != nil {
		return err
	}
	if err := pause.For(ctx, r.cfg.Delays.Prepare); err != nil {
		return err
	}
	if image := c.Spec().Image; r.images != nil && !r.images.holdsRef(image) {
		return fmt.Errorf("prepare task %s: image %s: %w", c.Task.Id, image, errdefs.ErrNotFound)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.containers[c.Task.Id] == nil {
		r.containers[c.Task.Id] = &container{c: c, limits: c.Revision.GetSpec().GetTaskTemplate().GetResources(), exited: make(chan struct{})}
	}
	return nil
}

// Start implements engine.Runtime.
func (r *Runtime) Start(ctx context.Context, taskID string) (_ engine.Started, err error) {
	defer func() { err = cmp.Or(r.answers(), err) }()
	if err := r.fail("start", taskID); err != nil {
		return engine.Started{}, err
	}
	if err := pause.For(ctx, r.cfg.Delays.Start); err != nil {
		return engine.Started{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[taskID]
	switch {
	case c == nil:
		return engine.Started{}, fmt.Errorf("start task %s: no container: %w", taskID, errdefs.ErrNotFound)
	case c.started:
		return engine.Started{}, fmt.Errorf("start task %s: it has run: %w", taskID, errdefs.ErrFailedPrecondition)
	}
	r.pid++
	r.starts++
	c.started, c.pid = true, r.pid
	if r.cfg.Life != nil {
		if after, code, ends := r.cfg.Life(c.c); ends {
			c.end = time.AfterFunc(after, func() { r.End(taskID, engine.Exit{Code: code}) })
		}
	}
	return engine.Started{Pid: c.pid}, nil
}

// End makes a running container end by itself; false: the task has no running container.
func (r *Runtime) End(taskID string, exit engine.Exit) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[taskID]
	if c == nil || !c.running() {
		return false
	}
	c.finish(exit)
	return true
}

func (c *container) running() bool {
	select {
	case <-c.exited:
		return false
	default:
		return c.started
	}
}

func (c *container) finish(exit engine.Exit) {
	if exit.At.IsZero() {
		exit.At = time.Now()
	}
	if c.end != nil {
		c.end.Stop()
	}
	c.exit = exit
	close(c.exited)
}

func (r *Runtime) get(taskID string) *container {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.containers[taskID]
}

// Wait implements engine.Runtime.
func (r *Runtime) Wait(ctx context.Context, taskID string) (engine.Exit, error) {
	c := r.get(taskID)
	if c == nil {
		return engine.Exit{}, fmt.Errorf("wait for task %s: no container: %w", taskID, errdefs.ErrNotFound)
	}
	select {
	case <-c.exited:
		return c.exit, r.whenBack(ctx)
	default:
	}
	select {
	case <-c.exited:
		return c.exit, r.whenBack(ctx)
	case <-ctx.Done():
		return engine.Exit{}, ctx.Err()
	}
}

// Update implements engine.Runtime.
func (r *Runtime) Update(ctx context.Context, taskID string, want *swarmv1.ResourceRequirements) error {
	if err := r.fail("update", taskID); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[taskID]
	if c == nil || c.started && !c.running() {
		return fmt.Errorf("update task %s: no container that runs: %w", taskID, errdefs.ErrNotFound)
	}
	c.limits = want.CloneVT()
	return ctx.Err()
}

// Exchange implements engine.Runtime.
func (r *Runtime) Exchange(ctx context.Context, taskID string, files []engine.File) error {
	if err := r.fail("exchange", taskID); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[taskID]
	if c == nil || c.started && !c.running() {
		return fmt.Errorf("exchange files of task %s: no container that runs: %w", taskID, errdefs.ErrNotFound)
	}
	for _, f := range files {
		if !slices.ContainsFunc(c.c.Files, func(had engine.File) bool { return had.Path == f.Path }) {
			return fmt.Errorf("%s is not a file of the container: %w", f.Path, errdefs.ErrFailedPrecondition)
		}
	}
	c.c.Files = slices.Clone(files)
	return ctx.Err()
}

// Signal implements engine.Runtime.
func (r *Runtime) Signal(_ context.Context, taskID, signal string) error {
	if err := r.fail("signal", taskID); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[taskID]
	if c == nil || !c.running() {
		return fmt.Errorf("signal task %s: no container that runs: %w", taskID, errdefs.ErrNotFound)
	}
	c.signals = append(c.signals, signal)
	return nil
}

// Signals returns the signals that Signal has sent to a task's container.
func (r *Runtime) Signals(taskID string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[taskID]; c != nil {
		return slices.Clone(c.signals)
	}
	return nil
}

// Limits returns the limits of a task's container.
func (r *Runtime) Limits(taskID string) *swarmv1.ResourceRequirements {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[taskID]; c != nil {
		return c.limits
	}
	return nil
}

// Stop implements engine.Runtime.
func (r *Runtime) Stop(ctx context.Context, taskID, signal string, grace time.Duration) (err error) {
	defer func() { err = cmp.Or(r.answers(), err) }()
	if err := r.fail("stop", taskID); err != nil {
		return err
	}
	c := r.get(taskID)
	if c == nil {
		return nil
	}
	r.mu.Lock()
	running := c.running()
	r.mu.Unlock()
	if !running {
		return nil
	}
	code := 128 + number(signal)
	wait := r.cfg.Delays.Stop
	if r.cfg.Obey != nil {
		wait = r.cfg.Obey(c.c)
	}
	if wait > grace {
		wait, code = grace, 128+9
	}
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.exited:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.End(taskID, engine.Exit{Code: code})
	return nil
}

// number knows the signals that tests use.
func number(signal string) int {
	switch strings.TrimPrefix(signal, "SIG") {
	case "KILL", "9":
		return 9
	case "INT", "2":
		return 2
	case "QUIT", "3":
		return 3
	default:
		return 15
	}
}

// ImageDefaults implements engine.Runtime.
func (r *Runtime) ImageDefaults(_ context.Context, taskID string) (engine.ImageDefaults, error) {
	if err := r.answers(); err != nil {
		return engine.ImageDefaults{}, err
	}
	c := r.get(taskID)
	switch {
	case c == nil:
		return engine.ImageDefaults{}, fmt.Errorf("image defaults of task %s: no container: %w", taskID, errdefs.ErrNotFound)
	case r.cfg.Defaults == nil:
		return engine.ImageDefaults{}, nil
	}
	return r.cfg.Defaults(c.c), nil
}

// Remove implements engine.Runtime.
func (r *Runtime) Remove(ctx context.Context, taskID string) (err error) {
	defer func() { err = cmp.Or(r.answers(), err) }()
	if err := r.fail("remove", taskID); err != nil {
		return err
	}
	if err := pause.For(ctx, r.cfg.Delays.Remove); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[taskID]; c != nil {
		if c.running() {
			c.finish(engine.Exit{Code: 128 + 9})
		}
		delete(r.containers, taskID)
	}
	return nil
}

// List implements engine.Runtime.
func (r *Runtime) List(context.Context) ([]engine.Found, error) {
	if err := r.answers(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []engine.Found
	for id, c := range r.containers {
		f := engine.Found{TaskID: id, ServiceID: c.c.Task.ServiceId, Running: c.running()}
		if f.Running {
			f.Pid = c.pid
		}
		out = append(out, f)
	}
	return out, nil
}

// Running returns the ids of the tasks whose containers run. It works while the runtime is away.
func (r *Runtime) Running() (tasks []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, c := range r.containers {
		if c.running() {
			tasks = append(tasks, id)
		}
	}
	slices.Sort(tasks)
	return tasks
}

// Starts returns how many containers were started so far.
func (r *Runtime) Starts() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.starts
}

// Container returns what Prepare was given for a task.
func (r *Runtime) Container(taskID string) (engine.Container, bool) {
	c := r.get(taskID)
	if c == nil {
		return engine.Container{}, false
	}
	return c.c, true
}
