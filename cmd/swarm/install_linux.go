package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"swarm/cli/command"
	"swarm/cli/daemon"
	"swarm/install"
	"swarm/internal/sysctl"
	"swarm/overlay/bridge"
	"swarm/worker/containerd/companion"
	"swarm/worker/containerd/layout"
)

// installer implements daemon.Installer, for a daemon with the default folders.
type installer struct {
	host   *install.Host
	layout layout.Layout
	socket string
}

func newInstaller() *installer {
	return &installer{
		host:   install.New(install.Config{StateDir: command.DefaultStateDir}),
		layout: layout.Layout{Data: command.DefaultStateDir, Run: command.DefaultRunDir},
		socket: filepath.Join(command.DefaultRunDir, "swarm.sock"),
	}
}

func installs() daemon.Installer { return newInstaller() }

// Install implements daemon.Installer.
func (i *installer) Install(ctx context.Context) (*command.StartedDaemon, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	in, err := i.host.Install(ctx, self, runningProgram)
	if err != nil {
		return nil, fmt.Errorf("install swarm: %w", err)
	}
	started := &command.StartedDaemon{Unit: in.Unit, Program: in.Program, Copied: in.Copied}
	started.Undo = func(ctx context.Context) error {
		if err := i.host.Stop(ctx); err != nil {
			return err
		}
		if !in.Fresh {
			return nil
		}
		_, err := i.host.Uninstall(ctx)
		return errors.Join(err, companion.Stop(ctx, i.layout.Root()))
	}
	if in.Unit == "" {
		return started, nil
	}
	if err := i.host.Start(ctx); err != nil {
		return nil, errors.Join(err, started.Undo(context.WithoutCancel(ctx)))
	}
	return started, nil
}

// Member implements daemon.Installer.
func (i *installer) Member() bool {
	_, err := os.Stat(filepath.Join(i.layout.Data, "node.json"))
	return err == nil
}

// Uninstall implements daemon.Installer. The program goes last, so that what fails can be tried again.
func (i *installer) Uninstall(ctx context.Context, purge bool) ([]string, error) {
	if err := i.host.Stop(ctx); err != nil {
		return nil, err
	}
	if err := i.end(ctx); err != nil {
		return nil, err
	}
	removed, err := i.removeTraces(ctx)
	if err != nil {
		return removed, err
	}
	units, err := i.host.Uninstall(ctx)
	removed = append(removed, units...)
	if err != nil {
		return removed, err
	}
	folders := []string{i.layout.Run}
	if purge {
		folders = append(folders, i.layout.Data)
	}
	for _, dir := range folders {
		gone, err := install.RemoveFolder(ctx, dir)
		if err != nil {
			return removed, fmt.Errorf("remove %s: %w", dir, err)
		}
		if gone {
			removed = append(removed, dir)
		}
	}
	_ = unix.Rmdir(i.layout.Data) // Nothing was kept in it; a link to where something was stays.
	return removed, nil
}

// end ends a daemon that runs by itself, and the container runtime.
func (i *installer) end(ctx context.Context) error {
	pid, err := install.DaemonBehind(i.socket)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
	case err != nil:
		return err
	default:
		if err := install.EndDaemon(pid, i.layout.Data); err != nil {
			return err
		}
	}
	return companion.Stop(ctx, i.layout.Root())
}

// removeTraces removes what a daemon makes outside its folders. Leaving a cluster does so too; here it is looked for again,
// because of daemons that were killed.
func (i *installer) removeTraces(ctx context.Context) ([]string, error) {
	h := &host{options: daemon.Options{StateDir: i.layout.Data, RunDir: i.layout.Run}, log: slog.New(slog.DiscardHandler)}
	var err error
	if h.bridge, err = bridge.New(bridge.Config{NetnsDir: filepath.Join(i.layout.Run, "netns")}, bridge.Deps{Log: h.log}); err != nil {
		return nil, err
	}
	defer h.bridge.Close()
	if err := errors.Join(h.purgeNetworks(ctx), sysctl.Restore(raisedLimits(i.layout.Run))); err != nil {
		return nil, err
	}
	var removed []string
	for _, pattern := range []string{"/sys/fs/cgroup/*" + cgroupParent, "/sys/fs/cgroup" + cgroupParent} {
		groups, err := filepath.Glob(pattern)
		if err != nil {
			return removed, err
		}
		for _, group := range groups {
			err := os.Remove(group)
			switch {
			case errors.Is(err, fs.ErrNotExist): // by the other name of a controller
			case err != nil:
				return removed, fmt.Errorf("%w: a container is left in it", err)
			default:
				removed = append(removed, group)
			}
		}
	}
	return removed, nil
}
