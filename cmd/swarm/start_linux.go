package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"swarm/cli/command"
	"swarm/install"
)

// startTimeout bounds how long a daemon may take to answer. It takes well under a second unless the
// disk is very slow.
const startTimeout = 60 * time.Second

// startDaemon starts a daemon with the default options, as a service if systemd is the init, and
// returns when it answers. It returns nil if a daemon runs already.
func startDaemon(ctx context.Context, r command.StartRequest) (*command.StartedDaemon, error) {
	switch conn, err := net.Dial("unix", r.Socket); {
	case err == nil:
		return nil, conn.Close()
	case errors.Is(err, os.ErrPermission):
		return nil, nil // a daemon may be running: the caller's next call fails with the reason
	case os.Geteuid() != 0:
		return nil, errdefs.ErrPermissionDenied.WithMessage("the swarm daemon is not running on this host, and only root can start it: run this command as root")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	i := newInstaller()
	if !r.NoSystemd && i.host.Systemd() {
		return i.Install(ctx)
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	log := filepath.Join(command.DefaultStateDir, "daemon.log")
	pid, err := install.Detach(ctx, program, runningProgram, log)
	if err != nil {
		return nil, fmt.Errorf("start the swarm daemon: %w", err)
	}
	return &command.StartedDaemon{PID: pid, Log: log, Program: program, Undo: i.end}, nil
}
