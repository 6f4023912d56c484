//go:build linux

package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// startTimeout bounds how long a daemon may take to answer. It takes well under a second unless the
// disk is very slow.
const startTimeout = 60 * time.Second

// DeploymentConfig configures a Deployment.
type DeploymentConfig struct {
	// StateDir and RunDir are the daemon's folders.
	StateDir, RunDir string
	// Program is the path of the program to install or start. The default is the running one.
	Program string
	// Content is a file with the content of Program. For the running program it is /proc/self/exe,
	// because the file at the path Program may have been replaced since the start.
	Content string
}

// DeploymentDeps are the functions that a Deployment calls.
type DeploymentDeps struct {
	// StopRuntime ends the container runtime and with it every container.
	StopRuntime func(ctx context.Context) error
	// RemoveTraces removes the objects that a daemon makes in the kernel (networks and rules), and
	// restores the limits that it has raised.
	RemoveTraces func(ctx context.Context) error
}

// Deployment is the program, the daemon and the daemon's files on this host. It starts a daemon
// with the default options and removes everything that a daemon leaves.
type Deployment struct {
	host *Host
	cfg  DeploymentConfig
	deps DeploymentDeps
}

// NewDeployment returns the deployment on a host. It does not look at the host.
func NewDeployment(h *Host, cfg DeploymentConfig, deps DeploymentDeps) *Deployment {
	return &Deployment{host: h, cfg: cfg, deps: deps}
}

// Started is a daemon that was started.
type Started struct {
	// Unit is the service that runs the daemon. If it is empty, the daemon runs as process PID with
	// the log file Log. Unit and PID are zero if nothing was started.
	Unit string
	PID  int
	Log  string
	// Program is the path of the program that was started. Copied is set if this call has copied
	// the program to that path.
	Program string
	Copied  bool
	// Undo ends the daemon, and removes the program and the units that were installed with it.
	Undo func(context.Context) error
}

// Start starts a daemon and returns when the daemon answers at socket. It makes the daemon a
// service if systemd is the init and noSystemd is not set. It returns nil if a daemon runs already.
// The error is ErrPermissionDenied for other users than root, or ErrUnavailable, with the end of
// its log, if the daemon does not start within 60 seconds.
func (d *Deployment) Start(ctx context.Context, socket string, noSystemd bool) (*Started, error) {
	switch conn, err := net.Dial("unix", socket); {
	case err == nil:
		return nil, conn.Close()
	case errors.Is(err, os.ErrPermission):
		return nil, nil // a daemon may be running: the caller's next call fails with the reason
	case os.Geteuid() != 0:
		return nil, errdefs.ErrPermissionDenied.WithMessage("the swarm daemon is not running on this host, and only root can start it: run this command as root")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if !noSystemd && d.host.Systemd() {
		return d.Install(ctx)
	}
	program, err := d.program()
	if err != nil {
		return nil, err
	}
	log := filepath.Join(d.cfg.StateDir, "daemon.log")
	pid, err := Detach(ctx, program, d.cfg.Content, log)
	if err != nil {
		return nil, fmt.Errorf("start the swarm daemon: %w", err)
	}
	return &Started{PID: pid, Log: log, Program: program, Undo: d.end}, nil
}

// Install puts the program into its place and, if systemd is the init, starts the daemon as an
// enabled service. If the service does not start, Install undoes what it has done.
func (d *Deployment) Install(ctx context.Context) (*Started, error) {
	program, err := d.program()
	if err != nil {
		return nil, err
	}
	in, err := d.host.Install(ctx, program, d.cfg.Content)
	if err != nil {
		return nil, fmt.Errorf("install swarm: %w", err)
	}
	started := &Started{Unit: in.Unit, Program: in.Program, Copied: in.Copied}
	started.Undo = func(ctx context.Context) error {
		if err := d.host.Stop(ctx); err != nil {
			return err
		}
		if !in.Fresh {
			return nil
		}
		_, err := d.host.Uninstall(ctx)
		return errors.Join(err, d.deps.StopRuntime(ctx))
	}
	if in.Unit == "" {
		return started, nil
	}
	if err := d.host.Start(ctx); err != nil {
		return nil, errors.Join(err, started.Undo(context.WithoutCancel(ctx)))
	}
	return started, nil
}

func (d *Deployment) program() (string, error) {
	if d.cfg.Program != "" {
		return d.cfg.Program, nil
	}
	return os.Executable()
}

// Member reports whether the state folder says that this host is a member of a cluster.
func (d *Deployment) Member() bool { return d.host.exists(filepath.Join(d.cfg.StateDir, "node.json")) }

// Uninstall ends the daemon and every container. Then it removes, in this order, the daemon's
// traces in the kernel, the program and the units, the runtime folder and, with purge, the state
// folder. The program is removed after the traces, so that the user can repeat a call that has
// failed. Uninstall returns the names of the things that it has removed, even if it fails.
func (d *Deployment) Uninstall(ctx context.Context, purge bool) (removed []string, err error) {
	if err := d.host.Stop(ctx); err != nil {
		return nil, err
	}
	if err := d.end(ctx); err != nil {
		return nil, err
	}
	if err := d.deps.RemoveTraces(ctx); err != nil {
		return nil, err
	}
	removed, err = d.host.removeCgroups()
	if err != nil {
		return removed, err
	}
	units, err := d.host.Uninstall(ctx)
	removed = append(removed, units...)
	if err != nil {
		return removed, err
	}
	folders := []string{d.cfg.RunDir}
	if purge {
		folders = append(folders, d.cfg.StateDir)
	}
	for _, dir := range folders {
		gone, err := RemoveFolder(ctx, d.host.path(dir))
		if err != nil {
			return removed, fmt.Errorf("remove %s: %w", dir, err)
		}
		if gone {
			removed = append(removed, dir)
		}
	}
	// Without purge, a state folder that is not empty stays. A symbolic link stays in any case.
	_ = unix.Rmdir(d.host.path(d.cfg.StateDir))
	return removed, nil
}

// end ends a daemon that systemd does not run, and the container runtime.
func (d *Deployment) end(ctx context.Context) error {
	pid, err := DaemonBehind(d.host.path(filepath.Join(d.cfg.RunDir, "swarm.sock")))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
	case err != nil:
		return err
	default:
		if err := EndDaemon(pid, d.host.path(d.cfg.StateDir)); err != nil {
			return err
		}
	}
	return d.deps.StopRuntime(ctx)
}
