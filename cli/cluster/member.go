package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"swarm/cli/command"
	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

// undoTimeout bounds how long the end of a daemon may take. It is for a daemon that was started for
// a host which did not become a member.
const undoTimeout = 30 * time.Second

// becomeMember makes this host a member by a call to its daemon. If no daemon runs, becomeMember
// starts one, and ends it again if the host does not become a member.
func becomeMember(ctx context.Context, deps *command.Deps, noSystemd bool, call func(command.Client) error) error {
	started, err := deps.StartLocal(ctx, noSystemd)
	if err != nil {
		return err
	}
	if started == nil {
		return deps.Connect(ctx, call)
	}
	isMember := false
	err = deps.Connect(ctx, func(c command.Client) error {
		err := call(c)
		if err != nil && inactive(ctx, c) {
			return err
		}
		isMember = true
		return err
	})
	if !isMember {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if uerr := started.Undo(after); uerr != nil {
			return errors.Join(err, fmt.Errorf("stop the daemon again that was started for it: %w", uerr))
		}
		return err
	}
	sayStarted(deps, started)
	return err
}

// inactive reports whether a daemon is reached and its host is a member of no cluster.
func inactive(ctx context.Context, c command.Client) bool {
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	info, err := c.Daemon.Info(after, &swarmv1.InfoRequest{})
	return err == nil && info.LocalNodeState == "inactive"
}

func sayStarted(deps *command.Deps, s *command.StartedDaemon) {
	if s.Copied {
		term.Printf(deps.Err, "Copied this program to %s.\n", s.Program)
	}
	if s.Unit != "" {
		term.Printf(deps.Err, "Installed and started %s; `swarm uninstall` removes it.\n", s.Unit)
		return
	}
	term.Printf(deps.Err, "Started the swarm daemon (process %d, log %s).\n", s.PID, s.Log)
	term.Printf(deps.Err, "It does not start by itself after a reboot: have your init system run `%s daemon`.\n", s.Program)
}
