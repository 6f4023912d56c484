package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"swarm/cli"
	"swarm/install"
	"swarm/internal/sysctl"
	"swarm/internal/tree"
	"swarm/overlay/bridge"
	"swarm/worker/containerd/companion"
	"swarm/worker/containerd/layout"
)

// endPatience is how long a daemon that is told to end may take.
const endPatience = 20 * time.Second

// installer implements cli.Installer, for a daemon with the default folders.
type installer struct {
	host   *install.Host
	layout layout.Layout
	socket string
}

func newInstaller() *installer {
	return &installer{
		host:   install.New(install.Config{StateDir: cli.DefaultStateDir}),
		layout: layout.Layout{Data: cli.DefaultStateDir, Run: cli.DefaultRunDir},
		socket: filepath.Join(cli.DefaultRunDir, "swarm.sock"),
	}
}

func installs() cli.Installer { return newInstaller() }

// Install implements cli.Installer.
func (i *installer) Install(ctx context.Context) (*cli.StartedDaemon, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	in, err := i.host.Install(ctx, self, runningProgram)
	if err != nil {
		return nil, fmt.Errorf("install swarm: %w", err)
	}
	started := &cli.StartedDaemon{Unit: in.Unit, Program: in.Program, Copied: in.Copied}
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

// Member implements cli.Installer.
func (i *installer) Member() bool {
	_, err := os.Stat(filepath.Join(i.layout.Data, "node.json"))
	return err == nil
}

// Uninstall implements cli.Installer. The program goes last, so that what fails can be tried again.
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
		gone, err := removeFolder(ctx, dir)
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
	pid, err := daemonBehind(i.socket)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
	case err != nil:
		return err
	default:
		if err := endDaemon(pid, i.layout.Data); err != nil {
			return err
		}
	}
	return companion.Stop(ctx, i.layout.Root())
}

// endDaemon returns when the daemon has given its state folder up.
func endDaemon(pid int, stateDir string) error {
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop daemon %d: %w", pid, err)
	}
	f, err := os.OpenFile(filepath.Join(stateDir, "lock"), os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	if !locked(f, endPatience) {
		return fmt.Errorf("daemon %d has not ended within %s: end it with `kill -9 %d` and try again", pid, endPatience, pid)
	}
	return nil
}

// removeTraces removes what a daemon makes outside its folders. Leaving a cluster does so too; here it is looked for again,
// because of daemons that were killed.
func (i *installer) removeTraces(ctx context.Context) ([]string, error) {
	h := &host{options: cli.DaemonOptions{StateDir: i.layout.Data, RunDir: i.layout.Run}, log: slog.New(slog.DiscardHandler)}
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

// removeFolder removes a folder with all that is mounted in it. One that is a mount itself, or a link to elsewhere, was made
// by the operator: then what is in it goes, and it stays.
func removeFolder(ctx context.Context, dir string) (bool, error) {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	mounts, err := mountsBelow(real)
	if err != nil {
		return false, err
	}
	for _, m := range mounts {
		err := unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return false, fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		// Containers have made what is in volumes and images' layers, folders of any depth.
		if err := tree.RemoveAll(ctx, filepath.Join(real, e.Name())); err != nil {
			return true, err
		}
	}
	if real != dir {
		return true, nil
	}
	if err := os.Remove(dir); !errors.Is(err, unix.EBUSY) {
		return true, err
	}
	return true, nil
}

// mountsBelow lists the mount points in a folder, the last one first: one may stand in another.
func mountsBelow(dir string) ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	// proc(5): octal for what would break a line.
	plain := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var found []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(plain.Replace(fields[4]), dir+"/") {
			found = append(found, plain.Replace(fields[4]))
		}
	}
	slices.Reverse(found)
	return found, nil
}
