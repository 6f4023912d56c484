package command

import "context"

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

// StartLocal starts the daemon of this host unless it runs already, for verbs that make the host a
// member. It returns nil if it started nothing: a daemon runs, StartDaemon is nil, or the user named a
// daemon with -H or SWARM_HOST, which is then the user's to start.
func (d *Deps) StartLocal(ctx context.Context, noSystemd bool) (*StartedDaemon, error) {
	if d.StartDaemon == nil || d.DaemonNamed() {
		return nil, nil
	}
	t, err := ParseHost(DefaultHost)
	if err != nil {
		return nil, err
	}
	return d.StartDaemon(ctx, StartRequest{Socket: t.Address, NoSystemd: noSystemd})
}
