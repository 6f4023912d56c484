package main

import (
	"context"
	"errors"
	"log/slog"

	"swarm/adapter/dataplane"
	"swarm/cli/command"
	"swarm/cli/daemon"
	"swarm/containerd/companion"
	"swarm/containerd/layout"
	"swarm/install"
	"swarm/internal/sysctl"
)

// installer implements daemon.Installer for a daemon with the default folders.
type installer struct{ *install.Deployment }

func installs() daemon.Installer { return newInstaller() }

func newInstaller() installer {
	l := layout.Layout{Data: command.DefaultStateDir, Run: command.DefaultRunDir}
	return installer{install.NewDeployment(install.New(install.Config{StateDir: l.Data}), install.DeploymentConfig{
		StateDir: l.Data, RunDir: l.Run, Content: runningProgram,
	}, install.DeploymentDeps{
		StopRuntime: func(ctx context.Context) error { return companion.Stop(ctx, l.Root()) },
		RemoveTraces: func(ctx context.Context) error {
			return errors.Join(dataplane.PurgeHost(ctx, l.Run, slog.New(slog.DiscardHandler)), sysctl.Restore(sysctl.Record(l.Run)))
		},
	})}
}

// Install implements daemon.Installer.
func (i installer) Install(ctx context.Context) (*command.StartedDaemon, error) {
	started, err := i.Deployment.Install(ctx)
	return (*command.StartedDaemon)(started), err
}

// startDaemon connects package install to the command line.
func startDaemon(ctx context.Context, r command.StartRequest) (*command.StartedDaemon, error) {
	started, err := newInstaller().Start(ctx, r.Socket, r.NoSystemd)
	return (*command.StartedDaemon)(started), err
}

func upgrades() daemon.Upgrader { return upgrader{} }

// upgrader implements daemon.Upgrader.
type upgrader struct{}

// Stage implements daemon.Upgrader.
func (upgrader) Stage(ctx context.Context, path, stateDir string) (daemon.Program, func() error, error) {
	p, release, err := install.Stage(ctx, path, stateDir)
	return daemon.Program(p), release, err
}

// Replace implements daemon.Upgrader.
func (upgrader) Replace(_ context.Context, socket string, p daemon.Program) (string, func() error, error) {
	return install.Replace(socket, install.Staged(p))
}
