package cli

import (
	"context"
	"fmt"
)

// StartedDaemon is a daemon that a command has started.
type StartedDaemon struct {
	PID int
	Log string
}

// startLocal has a daemon running on this host, for the verbs that make it a member. One that somebody named, with -H or
// SWARM_HOST, is theirs to start.
func (a *app) startLocal(ctx context.Context) error {
	if a.StartDaemon == nil || a.host != "" || a.Env("SWARM_HOST") != "" {
		return nil
	}
	t, err := ParseHost(DefaultHost)
	if err != nil {
		return err
	}
	started, err := a.StartDaemon(ctx, t.Address)
	if err != nil || started == nil {
		return err
	}
	fmt.Fprintf(a.Err, "Started the swarm daemon (process %d, log %s); `swarm daemon` runs it in the foreground.\n", started.PID, started.Log)
	return nil
}
