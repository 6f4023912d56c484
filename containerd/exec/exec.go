//go:build linux

// Package exec runs further processes in containers that run already, such as the commands of
// `swarm exec` and health checks.
//
// It owns the folder of the pipes that connect such a process to its caller, and the clean-up of
// processes whose callers have gone. Package containerd calls it.
//
// After the end of an exec, one goroutine removes the process from its shim. This goroutine ends
// after cleanTimeout at the latest. All other goroutines end before Run returns, with one
// exception: if a process in the background still holds the output open, the readers of that output
// end with the clean-up.
package exec

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"swarm/containerd/ocispec"
	"swarm/containerd/runc"
	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

const (
	// drainQuiet and drainGrace bound the wait for the last output of a process that has ended,
	// because a child in the background may hold the output open for ever. See drain.
	drainQuiet = 250 * time.Millisecond
	drainGrace = 2 * time.Second
	// startTimeout is how long the start of a process may continue after the caller's context has
	// ended. If the start were cancelled together with the context, it could leave a process that
	// nothing ends.
	startTimeout = 5 * time.Second
	// cleanTimeout bounds the attempts to remove a process from its shim. The shim waits up to 10 s
	// for the end of the output, and containerd may be down.
	cleanTimeout = time.Minute
	// cleanRetryMin and cleanRetryMax bound the pause between these attempts.
	cleanRetryMin = 20 * time.Millisecond
	cleanRetryMax = 5 * time.Second
)

// Runner runs processes in the containers of one containerd.
type Runner struct {
	client *client.Client
	log    *slog.Logger
	dir    string
}

// New returns a runner. dir is the folder of the processes' pipes, which need not exist.
func New(c *client.Client, log *slog.Logger, dir string) *Runner {
	return &Runner{client: c, log: log, dir: dir}
}

// Run runs a process in the container of the task until the process or ctx ends, and returns its
// exit code. ctx carries containerd's namespace. When ctx ends, the process is killed, and the
// error is the cause of the end.
//
// It returns ErrInvalidArgument without a command, ErrNotFound without a container,
// ErrFailedPrecondition when the container does not run, and engine.CommandError when runc cannot
// start the command.
func (r *Runner) Run(ctx context.Context, start *swarmv1.ExecStart, streams engine.ExecStreams) (_ int, err error) {
	if len(start.GetCommand()) == 0 {
		return 0, fmt.Errorf("no command: %w", errdefs.ErrInvalidArgument)
	}
	task, spec, err := r.runningTask(ctx, start.GetTaskId())
	if err != nil {
		return 0, err
	}
	process, err := execProcess(spec.Process, start, task.Pid())
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return 0, err
	}
	in := &input{r: streams.Stdin, ended: make(chan struct{})}
	out := newOutlet()
	defer out.close()
	p, err := task.Exec(ctx, rand.Text(), process, r.execIO(start, streams, in, out))
	if err != nil {
		return 0, runc.Classify(err)
	}
	// The clean-up must also work after ctx has ended.
	after := context.WithoutCancel(ctx)
	// Run does not wait for the clean-up, because the shim waits for children that hold the output
	// open. The goroutine ends after cleanTimeout at the latest.
	defer func() { go r.cleanUp(after, p, err != nil) }()
	exited, err := p.Wait(after)
	if err != nil {
		return 0, err
	}
	starting, cancel := extended(ctx, startTimeout)
	defer cancel()
	if err := p.Start(starting); err != nil {
		return 0, commandError(runc.Classify(err))
	}
	if streams.Started != nil {
		streams.Started()
	}
	if start.GetTty() && start.GetWidth() > 0 {
		r.resize(after, p, start.GetWidth(), start.GetHeight())
	}
	e := &execution{id: start.GetTaskId(), process: p, exited: exited, in: in, out: out}
	return r.attend(ctx, e, streams)
}

// maxRefusal is how many bytes of runc's message about a command are returned. The message quotes
// the command.
const maxRefusal = 1024

// commandError returns an engine.CommandError if runc's message is about the command. It returns
// any other error as it is.
func commandError(err error) error {
	text := strings.TrimSuffix(err.Error(), ": "+errdefs.ErrInvalidArgument.Error())
	const before = "unable to start container process: "
	i := strings.LastIndex(text, before)
	if !errdefs.IsInvalidArgument(err) || i < 0 {
		return err
	}
	text = text[i+len(before):]
	missing := strings.Contains(text, "executable file not found") || strings.Contains(text, "no such file or directory")
	return &engine.CommandError{NotFound: missing, Text: text[:min(len(text), maxRefusal)]}
}

// execution is a process that was started.
type execution struct {
	id      string // of the container
	process client.Process
	exited  <-chan client.ExitStatus
	in      *input
	out     *outlet
}

// cleanUp removes a process from its shim. With kill it kills the process first, because the
// process may still run.
func (r *Runner) cleanUp(ctx context.Context, p client.Process, kill bool) {
	ctx, cancel := context.WithTimeout(ctx, cleanTimeout)
	defer cancel()
	var opts []client.ProcessDeleteOpts
	if kill {
		opts = append(opts, client.WithProcessKill)
	}
	for rest := cleanRetryMin; ; rest = min(2*rest, cleanRetryMax) {
		_, err := p.Delete(ctx, opts...)
		if err == nil || errdefs.IsNotFound(err) {
			return
		}
		starting := kill && errdefs.IsFailedPrecondition(err) // The process may be about to start.
		if !errdefs.IsUnavailable(err) && !starting || pause.For(ctx, rest) != nil {
			r.log.WarnContext(ctx, "exec that has ended was not removed from its shim", "exec", p.ID(), "err", err)
			return
		}
	}
}

// attend passes input, signals and sizes to a running process until it has ended and its output is
// read.
func (r *Runner) attend(ctx context.Context, e *execution, streams engine.ExecStreams) (int, error) {
	after, done, ended := context.WithoutCancel(ctx), ctx.Done(), e.in.ended
	for {
		select {
		case status := <-e.exited:
			code, _, err := status.Result()
			if err != nil {
				return 0, errgrpc.ToNative(err)
			}
			cancelled := context.Cause(ctx)
			if cancelled != nil && streams.Whole {
				r.killWhole(after, e) // ctx ended, and the process ended by itself before this loop saw it.
			}
			e.out.drain(ctx, e.process.IO())
			return int(code), cancelled
		case <-done:
			done = nil // Kill the process once, and then wait for its end.
			if err := r.endExec(after, e, streams.Whole); err != nil && !errdefs.IsNotFound(err) {
				return 0, err
			}
		case <-ended:
			ended = nil
			if err := e.process.CloseIO(after, client.WithStdinCloser); err != nil && !errdefs.IsNotFound(err) {
				r.log.DebugContext(ctx, "close input of exec", "err", err)
			}
		case size, ok := <-streams.Resize:
			if !ok {
				streams.Resize = nil
				continue
			}
			r.resize(after, e.process, size.GetWidth(), size.GetHeight())
		case sig, ok := <-streams.Signals:
			if !ok {
				streams.Signals = nil
				continue
			}
			if err := e.process.Kill(after, sig); err != nil && !errdefs.IsNotFound(err) {
				r.log.DebugContext(ctx, "signal exec", "err", err)
			}
		}
	}
}

// endExec kills a process, and with whole also every process that it has started.
func (r *Runner) endExec(ctx context.Context, e *execution, whole bool) error {
	if whole {
		r.killWhole(ctx, e)
	}
	return e.process.Kill(ctx, syscall.SIGKILL)
}

func (r *Runner) killWhole(ctx context.Context, e *execution) {
	if err := r.killTree(ctx, e.id, int(e.process.Pid())); err != nil {
		r.log.WarnContext(ctx, "processes that an exec has started still run", "task", e.id, "err", err)
	}
}

// extended returns a context that ends later than ctx, by the time more.
func extended(ctx context.Context, more time.Duration) (context.Context, context.CancelFunc) {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(more, cancel) })
	return later, func() {
		stop()
		cancel()
	}
}

// resize sets the size of the terminal. It ignores that the process may have ended.
func (r *Runner) resize(ctx context.Context, p client.Process, width, height uint32) {
	if err := p.Resize(ctx, width, height); err != nil {
		r.log.DebugContext(ctx, "resize exec", "err", err)
	}
}

// runningTask returns the containerd task of a running container, and the container's spec.
func (r *Runner) runningTask(ctx context.Context, id string) (client.Task, *specs.Spec, error) {
	c, err := r.client.LoadContainer(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	task, err := c.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return nil, nil, fmt.Errorf("it does not run: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, nil, err
	}
	status, err := task.Status(ctx)
	if err != nil {
		return nil, nil, err
	}
	if status.Status != client.Running {
		return nil, nil, fmt.Errorf("it is %s: %w", status.Status, errdefs.ErrFailedPrecondition)
	}
	spec, err := c.Spec(ctx)
	if err == nil && spec.Process == nil {
		err = fmt.Errorf("its spec has no process: %w", errdefs.ErrInternal)
	}
	return task, spec, err
}

// execProcess describes the new process: the first process of the container (first, with the id
// pid) with another command.
func execProcess(first *specs.Process, start *swarmv1.ExecStart, pid uint32) (*specs.Process, error) {
	p := *first
	p.Args = start.GetCommand()
	p.Terminal = start.GetTty()
	p.Cwd = ocispec.WorkingDir(start.GetDir(), first.Cwd)
	p.Env = ocispec.MergeEnv(append([]string(nil), first.Env...), start.GetEnv())
	if start.GetTty() {
		p.ConsoleSize = &specs.Box{Width: uint(start.GetWidth()), Height: uint(start.GetHeight())}
		p.Env = ocispec.MergeEnv([]string{"TERM=xterm"}, p.Env)
	}
	if start.GetUser() != "" {
		// Read the accounts of the running container, not of the image: some may have been added.
		accounts, err := ocispec.ReadAccounts(fmt.Sprintf("/proc/%d/root", pid)) // The kernel makes this link lead to the container's root.
		if err != nil {
			return nil, fmt.Errorf("accounts: %w", err)
		}
		if p.User, err = accounts.User(start.GetUser(), nil); err != nil {
			return nil, err
		}
		p.Env = withoutHome(p.Env, first.Env)
	}
	if start.GetPrivileged() {
		all, err := cap.Current()
		if err != nil {
			return nil, fmt.Errorf("capabilities of the daemon: %w", err)
		}
		p.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
		if p.ApparmorProfile != "" {
			p.ApparmorProfile = "unconfined"
		}
	}
	return &p, nil
}

// withoutHome removes HOME from an environment, so that runc sets it for another user. If the
// container's first process has HOME, because the service or the image sets it, HOME stays.
func withoutHome(env, first []string) []string {
	for _, e := range first {
		if strings.HasPrefix(e, "HOME=") {
			return env
		}
	}
	return ocispec.MergeEnv(env, []string{"HOME"})
}

// execIO connects the streams by pipes in the runner's folder.
func (r *Runner) execIO(start *swarmv1.ExecStart, streams engine.ExecStreams, in *input, out *outlet) cio.Creator {
	stdout, stderr := out.to(streams.Stdout), out.to(streams.Stderr)
	var stdin io.Reader
	if streams.Stdin != nil {
		stdin = in
	}
	opts := []cio.Opt{cio.WithFIFODir(r.dir), cio.WithStreams(stdin, stdout, stderr)}
	if start.GetTty() {
		opts = []cio.Opt{cio.WithFIFODir(r.dir), cio.WithStreams(stdin, stdout, nil), cio.WithTerminal}
	}
	return cio.NewCreator(opts...)
}

// input closes ended at the end of the reader r. The caller then tells the shim to close the pipe,
// which the shim holds open until it is told.
type input struct {
	r     io.Reader
	ended chan struct{}
	done  bool
}

// Read is called by one goroutine.
func (i *input) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	if err != nil && !i.done {
		i.done = true
		close(i.ended)
	}
	return n, err
}
