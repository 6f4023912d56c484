//go:build linux

package containerd

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
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

	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/containerd/ocispec"
	"swarm/worker/engine"
)

const (
	// drainQuiet and drainGrace bound the wait for the output of an exec that has ended. What it wrote is on its way; a
	// child in the background may hold the output open for ever.
	drainQuiet = 250 * time.Millisecond
	drainGrace = 2 * time.Second
	// startPatience is how long the start of an exec may go on after ctx has ended. A start that is given up may leave a
	// process that nobody ends.
	startPatience = 5 * time.Second
	// cleanPatience bounds the attempts to clean up after an exec. The shim waits up to 10 s for the end of its output, and
	// the runtime's process may be away.
	cleanPatience = time.Minute
)

// Exec runs a second process in a container until it ends or ctx does.
func (r *Runtime) Exec(ctx context.Context, start *swarmv1.ExecStart, streams engine.ExecStreams) (int, error) {
	if err := validID(start.GetTaskId()); err != nil {
		return 0, err
	}
	ctx = namespaced(ctx)
	code, err := r.exec(ctx, start, streams)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", start.GetTaskId(), engine.Away(err))
	}
	return code, nil
}

func (r *Runtime) exec(ctx context.Context, start *swarmv1.ExecStart, streams engine.ExecStreams) (_ int, err error) {
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
	if err := os.MkdirAll(r.execDir(), 0o700); err != nil {
		return 0, err
	}
	in := &input{r: streams.Stdin, ended: make(chan struct{})}
	out := newOutlet()
	defer out.close()
	p, err := task.Exec(ctx, rand.Text(), process, r.execIO(start, streams, in, out))
	if err != nil {
		return 0, classify(err)
	}
	// The end of ctx must not keep the process from being cleaned up.
	after := context.WithoutCancel(ctx)
	// Nobody waits for the clean-up: a child may hold the output open, for which the shim waits. It ends after cleanPatience.
	defer func() { go r.cleanUp(after, p, err != nil) }()
	exited, err := p.Wait(after)
	if err != nil {
		return 0, err
	}
	starting, cancel := lasting(ctx, startPatience)
	defer cancel()
	if err := p.Start(starting); err != nil {
		return 0, commandError(classify(err))
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

// maxRefusal bounds what is told of runc's words on a command, in bytes: it quotes the command.
const maxRefusal = 1024

// commandError makes of runc's words a engine.CommandError, if they are about the command.
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

// execution is an exec that was started.
type execution struct {
	id      string // of the container
	process client.Process
	exited  <-chan client.ExitStatus
	in      *input
	out     *outlet
}

// cleanUp removes an exec from its shim. With kill it may still run.
func (r *Runtime) cleanUp(ctx context.Context, p client.Process, kill bool) {
	ctx, cancel := context.WithTimeout(ctx, cleanPatience)
	defer cancel()
	var opts []client.ProcessDeleteOpts
	if kill {
		opts = append(opts, client.WithProcessKill)
	}
	for rest := retryMin; ; rest = min(2*rest, retryMax) {
		_, err := p.Delete(ctx, opts...)
		if err == nil || errdefs.IsNotFound(err) {
			return
		}
		again := errdefs.IsUnavailable(err) || kill && errdefs.IsFailedPrecondition(err) // It may be about to start.
		if !again || pause.For(ctx, rest) != nil {
			r.log.WarnContext(ctx, "an exec that has ended is not cleaned up", "exec", p.ID(), "err", err)
			return
		}
	}
}

// attend serves a running process until it has ended and its output is read.
func (r *Runtime) attend(ctx context.Context, e *execution, streams engine.ExecStreams) (int, error) {
	after, done, ended := context.WithoutCancel(ctx), ctx.Done(), e.in.ended
	for {
		select {
		case status := <-e.exited:
			code, _, err := status.Result()
			if err != nil {
				return 0, errgrpc.ToNative(err)
			}
			late := context.Cause(ctx)
			if late != nil && streams.Whole {
				r.killWhole(after, e) // The process ended while it was to be killed.
			}
			e.out.drain(ctx, e.process.IO())
			return int(code), late
		case <-done:
			done = nil // what remains is its end
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

// endExec kills an exec, and with whole all that came of it.
func (r *Runtime) endExec(ctx context.Context, e *execution, whole bool) error {
	if whole {
		r.killWhole(ctx, e)
	}
	return e.process.Kill(ctx, syscall.SIGKILL)
}

func (r *Runtime) killWhole(ctx context.Context, e *execution) {
	if err := r.killTree(ctx, e.id, int(e.process.Pid())); err != nil {
		r.log.WarnContext(ctx, "what an exec has started remains", "task", e.id, "err", err)
	}
}

// lasting returns a context that ends the given time after ctx.
func lasting(ctx context.Context, more time.Duration) (context.Context, context.CancelFunc) {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(more, cancel) })
	return later, func() {
		stop()
		cancel()
	}
}

// resize tolerates that the process has ended.
func (r *Runtime) resize(ctx context.Context, p client.Process, width, height uint32) {
	if err := p.Resize(ctx, width, height); err != nil {
		r.log.DebugContext(ctx, "resize exec", "err", err)
	}
}

// runningTask is the task of a container that runs, and its spec.
func (r *Runtime) runningTask(ctx context.Context, id string) (client.Task, *specs.Spec, error) {
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

// execProcess is the container's own process with another command.
func execProcess(own *specs.Process, start *swarmv1.ExecStart, pid uint32) (*specs.Process, error) {
	p := *own
	p.Args = start.GetCommand()
	p.Terminal = start.GetTty()
	p.Cwd = ocispec.WorkingDir(start.GetDir(), own.Cwd)
	p.Env = ocispec.MergeEnv(append([]string(nil), own.Env...), start.GetEnv())
	if start.GetTty() {
		p.ConsoleSize = &specs.Box{Width: uint(start.GetWidth()), Height: uint(start.GetHeight())}
		p.Env = ocispec.MergeEnv([]string{"TERM=xterm"}, p.Env)
	}
	if start.GetUser() != "" {
		// Of the container as it is now, not of the image: accounts may have been added.
		accounts, err := readAccounts(fmt.Sprintf("/proc/%d/root", pid)) // The kernel has this link lead to the container's root.
		if err != nil {
			return nil, fmt.Errorf("accounts: %w", err)
		}
		if p.User, err = accounts.User(start.GetUser(), nil); err != nil {
			return nil, err
		}
		p.Env = withoutHome(p.Env, own.Env)
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

// withoutHome lets runc set HOME for another user, unless the service has set it.
func withoutHome(env, own []string) []string {
	for _, e := range own {
		if strings.HasPrefix(e, "HOME=") {
			return env
		}
	}
	return ocispec.MergeEnv(env, []string{"HOME"})
}

// execIO connects the streams by pipes in the run folder.
func (r *Runtime) execIO(start *swarmv1.ExecStart, streams engine.ExecStreams, in *input, out *outlet) cio.Creator {
	stdout, stderr := out.to(streams.Stdout), out.to(streams.Stderr)
	var stdin io.Reader
	if streams.Stdin != nil {
		stdin = in
	}
	opts := []cio.Opt{cio.WithFIFODir(r.execDir()), cio.WithStreams(stdin, stdout, stderr)}
	if start.GetTty() {
		opts = []cio.Opt{cio.WithFIFODir(r.execDir()), cio.WithStreams(stdin, stdout, nil), cio.WithTerminal}
	}
	return cio.NewCreator(opts...)
}

// input tells when it has come to its end: the shim holds the pipe open until it is told.
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
