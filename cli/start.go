package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"swarm/cli/term"
	swarmv1 "swarm/proto/swarm/v1"
)

// StartRequest asks for a daemon with the default options on this host.
type StartRequest struct {
	// Socket is where it answers.
	Socket string
	// NoSystemd: it is not made a service, also where systemd is the init.
	NoSystemd bool
}

// StartedDaemon is a daemon that a command has started.
type StartedDaemon struct {
	// Unit is the service that runs it; empty: it runs by itself, in process PID with the log file Log.
	Unit string
	PID  int
	Log  string
	// Program is what was started, and Copied tells that it was put there now.
	Program string
	Copied  bool
	// Undo makes the host as it was before the start.
	Undo func(context.Context) error
}

// undoPatience bounds how long a daemon that was started in vain may take to end.
const undoPatience = 30 * time.Second

// startLocal has a daemon running on this host, for the verbs that make it a member. One that somebody named, with -H or
// SWARM_HOST, is theirs to start. Nil: there was nothing to start.
func (a *app) startLocal(ctx context.Context, noSystemd bool) (*StartedDaemon, error) {
	if a.StartDaemon == nil || a.daemonNamed() {
		return nil, nil
	}
	t, err := ParseHost(DefaultHost)
	if err != nil {
		return nil, err
	}
	return a.StartDaemon(ctx, StartRequest{Socket: t.Address, NoSystemd: noSystemd})
}

// enter makes this host a member by a call to its daemon, which is started if need be. When the host does not become one,
// a daemon that was started for it is not left behind.
func (a *app) enter(ctx context.Context, noSystemd bool, call func(client) error) error {
	started, err := a.startLocal(ctx, noSystemd)
	if err != nil {
		return err
	}
	if started == nil {
		return a.with(ctx, call)
	}
	said := false
	err = a.with(ctx, func(c client) error {
		err := call(c)
		if err != nil && inactive(ctx, c) {
			return err
		}
		said = true
		return err
	})
	if !said {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
		defer cancel()
		if uerr := started.Undo(after); uerr != nil {
			return errors.Join(err, fmt.Errorf("stop the daemon again that was started for it: %w", uerr))
		}
		return err
	}
	a.sayStarted(started)
	return err
}

// inactive says whether a daemon is part of no cluster, for sure.
func inactive(ctx context.Context, c client) bool {
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
	defer cancel()
	info, err := c.daemon.Info(after, &swarmv1.InfoRequest{})
	return err == nil && info.LocalNodeState == "inactive"
}

func (a *app) sayStarted(s *StartedDaemon) {
	if s.Copied {
		term.Printf(a.Err, "Copied this program to %s.\n", s.Program)
	}
	if s.Unit != "" {
		term.Printf(a.Err, "Installed and started %s; `swarm uninstall` removes it.\n", s.Unit)
		return
	}
	term.Printf(a.Err, "Started the swarm daemon (process %d, log %s).\n", s.PID, s.Log)
	term.Printf(a.Err, "It does not start by itself after a reboot: have your init system run `%s daemon`.\n", s.Program)
}
