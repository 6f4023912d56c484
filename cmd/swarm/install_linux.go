package main

import (
	"context"
	"errors"
	"log/slog"

	"swarm/adapter/dataplane"
	"swarm/cli"
	"swarm/containerd/companion"
	"swarm/containerd/layout"
	"swarm/install"
	"swarm/internal/sysctl"
)

// installer implements cli.Installer for a daemon with the default folders.
type installer struct{ *install.Deployment }

func installs() cli.Installer { return newInstaller() }

func newInstaller() installer {
	l := layout.Layout{Data: cli.DefaultStateDir, Run: cli.DefaultRunDir}
	return installer{install.NewDeployment(install.New(install.Config{StateDir: l.Data}), install.DeploymentConfig{
		StateDir: l.Data, RunDir: l.Run, Content: runningProgram,
	}, install.DeploymentDeps{
		StopRuntime: func(ctx context.Context) error { return companion.Stop(ctx, l.Root()) },
		RemoveTraces: func(ctx context.Context) error {
			return errors.Join(dataplane.PurgeHost(ctx, l.Run, slog.New(slog.DiscardHandler)), sysctl.Restore(sysctl.Record(l.Run)))
		},
	})}
}

// Install implements cli.Installer.
func (i installer) Install(ctx context.Context) (*cli.StartedDaemon, error) {
	started, err := i.Deployment.Install(ctx)
	return (*cli.StartedDaemon)(started), err
}

// startDaemon connects package install to the command line.
func startDaemon(ctx context.Context, r cli.StartRequest) (*cli.StartedDaemon, error) {
	started, err := newInstaller().Start(ctx, r.Socket, r.NoSystemd)
	return (*cli.StartedDaemon)(started), err
}

func upgrades() cli.Upgrader { return upgrader{} }

// upgrader implements cli.Upgrader.
type upgrader struct{}

// Stage implements cli.Upgrader.
func (upgrader) Stage(ctx context.Context, path, stateDir string) (cli.Program, func() error, error) {
	p, release, err := install.Stage(ctx, path, stateDir)
	return cli.Program(p), release, err
}

// Replace implements cli.Upgrader.
func (upgrader) Replace(_ context.Context, socket string, p cli.Program) (string, func() error, error) {
	return install.Replace(socket, install.Staged(p))
}
