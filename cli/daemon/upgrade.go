package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"swarm/cli/command"
	"swarm/cli/term"
	"swarm/cli/usage"
	swarmv1 "swarm/proto/swarm/v1"
)

// Program is another build of swarm, in a file that only root can change.
type Program struct {
	Path    string
	Version *swarmv1.VersionInfo
}

// Upgrader replaces the program that the daemon of this host runs.
type Upgrader interface {
	// Stage copies a file into the daemon's state folder, to a place that only root can change, and
	// runs the copy to ask for its build. A later change of the file does not change the copy.
	// Release removes the copy.
	Stage(ctx context.Context, path, stateDir string) (p Program, release func() error, err error)
	// Replace puts the program in the place of the file from which the daemon behind a socket was
	// started, and makes the daemon run it. It returns before the new program answers. Undo puts
	// the old file back.
	Replace(ctx context.Context, socket string, p Program) (installed string, undo func() error, err error)
}

// upgradeTimeout bounds how long the new daemon may take to answer.
const upgradeTimeout = 60 * time.Second

// NewUpgrade returns the verb `swarm upgrade`.
func NewUpgrade(deps *command.Deps, upgrader Upgrader) *cobra.Command {
	c := command.Verb(&cobra.Command{
		Use: "upgrade FILE", Short: "Replace swarm on this host by another build; containers go on", Args: usage.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return runUpgrade(c.Context(), deps, upgrader, args[0]) },
	})
	return c
}

func runUpgrade(ctx context.Context, deps *command.Deps, upgrader Upgrader, file string) (err error) {
	path, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	t, err := deps.Target()
	if err != nil {
		return err
	}
	if t.Network != "unix" {
		return usage.Invalidf("%s is another host: run `swarm upgrade` on the host itself", t)
	}
	daemon, err := askInfo(ctx, deps)
	if err != nil {
		return err
	}
	before := daemon.GetVersion()
	program, release, err := upgrader.Stage(ctx, path, cmp.Or(daemon.GetStateDir(), command.DefaultStateDir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if before.GetBuild() == program.Version.GetBuild() {
		term.Printf(deps.Err, "This host runs %s already.\n", before.GetBuild())
		return nil
	}
	installed, undo, err := upgrader.Replace(ctx, t.Address, program)
	if err != nil {
		return err
	}
	if err := awaitBuild(ctx, deps, program.Version.GetBuild()); err != nil {
		if uerr := undo(); uerr != nil {
			return fmt.Errorf("%w; the former program is not back in its place: %w", err, uerr)
		}
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf(
			"build %s does not serve (%v): %s is the former program again: restart the daemon with it; containers have not been touched",
			program.Version.GetBuild(), err, installed))
	}
	term.Printf(deps.Out, "%s -> %s\n", before.GetBuild(), program.Version.GetBuild())
	return nil
}

// askInfo returns the daemon's information about itself.
func askInfo(ctx context.Context, deps *command.Deps) (info *swarmv1.InfoResponse, err error) {
	err = deps.Connect(ctx, func(c command.Client) error {
		info, err = c.Daemon.Info(ctx, &swarmv1.InfoRequest{})
		return err
	})
	return info, err
}

// awaitBuild waits until a daemon of the build answers.
func awaitBuild(ctx context.Context, deps *command.Deps, build string) error {
	ctx, cancel := context.WithTimeout(ctx, upgradeTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		info, err := askInfo(ctx, deps)
		if err == nil && info.GetVersion().GetBuild() == build {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if last == nil {
				last = fmt.Errorf("the daemon is still of build %s", info.GetVersion().GetBuild())
			}
			return last
		}
	}
}
