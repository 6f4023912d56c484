package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// Installer installs the program on this host and removes it, with the default folders.
type Installer interface {
	// Install copies the program if needed. If systemd is the init, it makes the daemon a service,
	// which it enables and starts.
	Install(context.Context) (*command.StartedDaemon, error)
	// Uninstall ends the daemon and the containers. It removes the program, the units, and
	// everything that the daemon made outside of its folders. If purge is set, it also removes the
	// daemon's state. It returns the names of the things that it removed.
	Uninstall(ctx context.Context, purge bool) (removed []string, err error)
	// Member reports whether this host is a member of a cluster. No daemon need run.
	Member() bool
}

// NewInstall returns the verb `swarm install`.
func NewInstall(deps *command.Deps, installer Installer) *cobra.Command {
	return command.Verb(&cobra.Command{
		Use: "install", Short: "Make swarm part of this host: the program, and the service where systemd is", Args: usage.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(c *cobra.Command, _ []string) error { return runInstall(c.Context(), deps, installer) },
	})
}

func runInstall(ctx context.Context, deps *command.Deps, installer Installer) error {
	got, err := installer.Install(ctx)
	if err != nil {
		return err
	}
	if got.Unit == "" {
		term.Printf(deps.Out, "Installed %s. This host has no systemd: have its init system run `%s daemon`.\n", got.Program, got.Program)
		return nil
	}
	term.Printf(deps.Out, "Installed %s and started %s.\n", got.Program, got.Unit)
	return nil
}

type uninstallOptions struct{ purge, force bool }

// NewUninstall returns the verb `swarm uninstall`.
func NewUninstall(deps *command.Deps, installer Installer) *cobra.Command {
	var o uninstallOptions
	c := command.Verb(&cobra.Command{
		Use: "uninstall [OPTIONS]", Short: "Remove swarm from this host", Args: usage.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error { return runUninstall(c.Context(), deps, installer, o) },
	})
	c.Flags().BoolVar(&o.purge, "purge", false, "Remove images, volumes, logs and all other state too")
	c.Flags().BoolVarP(&o.force, "force", "f", false, "Leave the swarm first, ignoring warnings")
	return c
}

func runUninstall(ctx context.Context, deps *command.Deps, installer Installer, o uninstallOptions) error {
	if deps.DaemonNamed() {
		return usage.Invalidf("`swarm uninstall` is for the host it runs on: leave -H and SWARM_HOST out")
	}
	if installer.Member() {
		if err := leaveFirst(ctx, deps, o.force); err != nil {
			return err
		}
	}
	removed, err := installer.Uninstall(ctx, o.purge)
	for _, what := range removed {
		term.Printf(deps.Out, "%s\n", what)
	}
	if err != nil {
		return err
	}
	if len(removed) == 0 {
		fmt.Fprintln(deps.Err, "Nothing of swarm was installed on this host.")
	}
	return nil
}

// leaveFirst ends the membership of this host. Only a daemon can clean up, so leaveFirst starts one
// if none runs.
func leaveFirst(ctx context.Context, deps *command.Deps, force bool) error {
	if !force {
		return errdefs.ErrFailedPrecondition.WithMessage("this host is part of a swarm: run `swarm leave` first, or use --force to leave it and uninstall")
	}
	started, err := deps.StartLocal(ctx, true)
	if err != nil {
		return err
	}
	err = deps.Connect(ctx, func(c command.Client) error {
		_, err := c.Daemon.Leave(ctx, &swarmv1.LeaveRequest{Force: true})
		return err
	})
	if err == nil || started == nil {
		return err
	}
	return errors.Join(err, started.Undo(context.WithoutCancel(ctx)))
}
