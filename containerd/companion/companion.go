//go:build linux

// Package companion keeps one process `swarm runtime`, which serves containerd, running beside the
// daemon.
//
// It decides which process that is. If an earlier daemon has left a process with the wanted build
// and the wanted settings, the package adopts it. It replaces a process with another build or other
// settings. When the process dies, the package starts it again, after a pause that grows. The
// package does not stop the process when the daemon stops, and never touches a container. The lock
// in the containerd root folder (package lock) tells which process serves, so two daemons cannot
// start two processes.
//
// The daemon calls Run, and Ready before it talks to containerd. Run starts one further goroutine,
// which waits for the end of the process. It ends before Run returns or starts the process again.
package companion

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"swarm/containerd/binary"
	"swarm/containerd/layout"
	"swarm/containerd/lock"
	"swarm/containerd/server"
	"swarm/internal/broadcast"
	"swarm/internal/pause"
)

const (
	// restartMin and restartMax bound the pause before a runtime process that has died is started
	// again. After a process that has run for longer than steady, the pause is restartMin again.
	// After a process that has served, it is restartServed at most, because swarm does not see that
	// a container has ended until containerd answers again.
	restartMin    = 100 * time.Millisecond
	restartMax    = 10 * time.Second
	restartServed = 500 * time.Millisecond
	steady        = 30 * time.Second

	// stopGrace is how long a runtime process may take to stop before it is killed. A kill loses no
	// data.
	stopGrace = 5 * time.Second

	// logLimit is the size in bytes above which the log is renamed before the process is started.
	logLimit = 8 << 20
)

// Config says which process to run.
type Config struct {
	Layout   layout.Layout
	Programs binary.Set // the build to run
	LogLevel string     // "" is warn
}

// Deps are live objects.
type Deps struct {
	Log *slog.Logger
}

// Companion keeps one runtime process running. Its methods are safe for concurrent use.
type Companion struct {
	cfg Config
	log *slog.Logger

	mu      sync.Mutex       // guards the fields below
	up      bool             // the wanted process serves
	last    error            // why the process does not serve; nil if not known
	changed broadcast.Signal // sent when up or last changes
}

// New returns a companion. It starts nothing. ErrInvalidArgument: a path in cfg is not valid.
func New(cfg Config, deps Deps) (*Companion, error) {
	if err := cfg.Layout.Validate(); err != nil {
		return nil, fmt.Errorf("runtime: %w", err)
	}
	if !filepath.IsAbs(cfg.Programs.Program) {
		return nil, fmt.Errorf("runtime program %q is not an absolute path: %w", cfg.Programs.Program, errdefs.ErrInvalidArgument)
	}
	return &Companion{cfg: cfg, log: deps.Log}, nil
}

// Run keeps the runtime process running until ctx ends, and leaves the process running then. It is
// called once. It returns nil.
func (c *Companion) Run(ctx context.Context) error {
	rest := restartMin
	for {
		began := time.Now()
		err := c.serve(ctx)
		if ctx.Err() != nil {
			return nil
		}
		served := c.set(false, err)
		switch {
		case time.Since(began) > steady:
			rest = restartMin
		case served:
			rest = min(rest, restartServed)
		}
		wait := rest/2 + rand.N(rest)
		c.log.WarnContext(ctx, "runtime process is not running", "err", err, "retry", wait.Round(time.Millisecond))
		if pause.For(ctx, wait) != nil {
			return nil
		}
		rest = min(2*rest, restartMax)
	}
}

// Ready waits until the wanted process serves. Run must be running. If ctx ends first, it returns
// ErrUnavailable with the last known reason.
func (c *Companion) Ready(ctx context.Context) error {
	for {
		c.mu.Lock()
		up, last, changed := c.up, c.last, c.changed.Changed()
		c.mu.Unlock()
		if up {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("containerd on %s does not answer, see %s: %w: %w",
				c.cfg.Layout.Socket(), c.cfg.Layout.Log(), cmp.Or(last, ctx.Err()), errdefs.ErrUnavailable)
		}
	}
}

// Stop ends the runtime process that serves a containerd root folder (layout.Root), and returns
// when the process has ended. Containers run on. Call Stop after Run of the Companion has returned,
// because Run starts the process again.
func Stop(ctx context.Context, root string) error {
	p, err := serving(root)
	if err != nil || p == nil {
		return err
	}
	defer p.close()
	return p.stop(ctx)
}

// serve makes the wanted runtime process run, and returns when the process has died.
func (c *Companion) serve(ctx context.Context) error {
	p, err := c.adopt(ctx)
	if err != nil {
		return err
	}
	if p == nil {
		if p, err = c.start(); err != nil {
			return err
		}
	}
	defer p.close()

	alive, died := context.WithCancel(ctx)
	defer died()
	exited := make(chan error, 1)
	go func() {
		exited <- p.wait(ctx)
		died()
	}()
	if c.ping(alive) == nil {
		c.set(true, nil)
		c.log.InfoContext(ctx, "runtime process serves", "pid", p.pid, "build", c.cfg.Programs.Build)
	}
	if err := <-exited; err != nil {
		return fmt.Errorf("runtime process %d: %w", p.pid, err)
	}
	return fmt.Errorf("runtime process %d ended, see %s: %w", p.pid, c.cfg.Layout.Log(), errdefs.ErrUnavailable)
}

// adopt returns the process that serves already, if it has the wanted build and settings. If it has
// not, adopt stops the process and returns nil. It also returns nil if no process serves.
func (c *Companion) adopt(ctx context.Context) (*process, error) {
	p, err := serving(c.cfg.Layout.Root())
	if err != nil || p == nil {
		return nil, err
	}
	if p.runs(c.command()) {
		return p, nil
	}
	defer p.close()
	c.log.InfoContext(ctx, "runtime process of another build or with other settings is replaced", "pid", p.pid)
	return nil, p.stop(ctx)
}

// serving returns the process that holds the lock of the root, or nil if there is none.
func serving(root string) (*process, error) {
	for {
		pid, err := lock.Holder(layout.Lock(root))
		if err != nil || pid == 0 {
			return nil, err
		}
		p, err := openProcess(pid)
		if errors.Is(err, syscall.ESRCH) {
			continue // The process ended between the two calls.
		}
		if err != nil {
			return nil, err
		}
		// The process id may have been reused.
		again, err := lock.Holder(layout.Lock(root))
		if err == nil && again == pid {
			return p, nil
		}
		p.close()
		if err != nil {
			return nil, err
		}
	}
}

func (c *Companion) command() []string {
	l := c.cfg.Layout
	return append([]string{c.cfg.Programs.Program, "runtime"}, server.Config{
		Root:     l.Root(),
		State:    l.State(),
		Address:  l.Socket(),
		BinDir:   c.cfg.Programs.Dir,
		LogLevel: c.cfg.LogLevel,
	}.Args()...)
}

// start starts the process in its own session, so that no signal to the daemon's terminal or
// process group reaches it.
func (c *Companion) start() (*process, error) {
	out, err := openLog(c.cfg.Layout.Log())
	if err != nil {
		return nil, fmt.Errorf("start runtime process: %w", err)
	}
	defer out.Close()
	args := c.command()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = withoutSystemd(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start runtime process: %w", err)
	}
	p, err := openProcess(cmd.Process.Pid)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start runtime process: %w", err), cmd.Process.Kill(), cmd.Wait())
	}
	// From here on p watches and reaps the process, in the same way for a child and an adopted
	// process.
	return p, cmd.Process.Release()
}

// ping waits until containerd answers.
func (c *Companion) ping(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+c.cfg.Layout.Socket(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.3, Jitter: 0.2, MaxDelay: 100 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	if resp.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("containerd is %s: %w", resp.Status, errdefs.ErrUnavailable)
	}
	return nil
}

// set records whether the wanted process serves, and returns whether it did before.
func (c *Companion) set(up bool, last error) (before bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before = c.up
	c.up, c.last = up, last
	c.changed.Broadcast()
	return before
}
