//go:build linux

package containerd

import (
	"context"
	"crypto/rand"
	"errors"
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
	specs "github.com/opencontainers/runtime-spec/specs-go"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
	"swarm/worker/containerd/ocispec"
)

// drainGrace is how long the output of an exec that has ended may go on: a child in the background may hold it open.
const drainGrace = 2 * time.Second

// Exec runs a second process in a container until it ends or ctx does.
func (r *Runtime) Exec(ctx context.Context, start *swarmv1.ExecStart, streams worker.ExecStreams) (int, error) {
	if err := validID(start.GetTaskId()); err != nil {
		return 0, err
	}
	ctx = namespaced(ctx)
	code, err := r.exec(ctx, start, streams)
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", start.GetTaskId(), worker.Away(err))
	}
	return code, nil
}

func (r *Runtime) exec(ctx context.Context, start *swarmv1.ExecStart, streams worker.ExecStreams) (_ int, err error) {
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
	p, err := task.Exec(ctx, rand.Text(), process, r.execIO(start, streams, in))
	if err != nil {
		return 0, classify(err)
	}
	// The end of ctx must not keep the process from being cleaned up.
	after := context.WithoutCancel(ctx)
	var opts []client.ProcessDeleteOpts
	defer func() {
		if _, derr := p.Delete(after, opts...); derr != nil && !errdefs.IsNotFound(derr) {
			err = errors.Join(err, fmt.Errorf("clean up: %w", derr))
		}
	}()
	exited, err := p.Wait(after)
	if err != nil {
		return 0, err
	}
	if err := p.Start(ctx); err != nil {
		return 0, classify(err)
	}
	if streams.Started != nil {
		streams.Started()
	}
	if start.GetTty() && start.GetWidth() > 0 {
		r.resize(after, p, start.GetWidth(), start.GetHeight())
	}
	code, err := r.attend(ctx, p, exited, in, streams)
	if err != nil {
		opts = append(opts, client.WithProcessKill) // it may run still
	}
	return code, err
}

// attend serves a running process until it has ended and its output is read.
func (r *Runtime) attend(ctx context.Context, p client.Process, exited <-chan client.ExitStatus, in *input, streams worker.ExecStreams) (int, error) {
	after, done, ended := context.WithoutCancel(ctx), ctx.Done(), in.ended
	for {
		select {
		case status := <-exited:
			code, _, err := status.Result()
			if err != nil {
				return 0, err
			}
			drain(ctx, p.IO())
			return int(code), context.Cause(ctx)
		case <-done:
			done = nil // what remains is its end
			if err := p.Kill(after, syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
				return 0, err
			}
		case <-ended:
			ended = nil
			if err := p.CloseIO(after, client.WithStdinCloser); err != nil && !errdefs.IsNotFound(err) {
				r.log.DebugContext(ctx, "close input of exec", "err", err)
			}
		case size, ok := <-streams.Resize:
			if !ok {
				streams.Resize = nil
				continue
			}
			r.resize(after, p, size.GetWidth(), size.GetHeight())
		case sig, ok := <-streams.Signals:
			if !ok {
				streams.Signals = nil
				continue
			}
			if err := p.Kill(after, sig); err != nil && !errdefs.IsNotFound(err) {
				r.log.DebugContext(ctx, "signal exec", "err", err)
			}
		}
	}
}

// resize tolerates that the process has ended.
func (r *Runtime) resize(ctx context.Context, p client.Process, width, height uint32) {
	if err := p.Resize(ctx, width, height); err != nil {
		r.log.DebugContext(ctx, "resize exec", "err", err)
	}
}

// drain waits for the output's end, for a while.
func drain(ctx context.Context, streams cio.IO) {
	read := make(chan struct{})
	go func() { // ends when the caller closes streams, at the latest
		defer close(read)
		streams.Wait()
	}()
	select {
	case <-read:
	case <-ctx.Done():
	case <-time.After(drainGrace):
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
func (r *Runtime) execIO(start *swarmv1.ExecStart, streams worker.ExecStreams, in *input) cio.Creator {
	stdout, stderr := orDiscard(streams.Stdout), orDiscard(streams.Stderr)
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

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
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
