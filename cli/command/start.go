package command

import "context"

// StartRequest asks for a daemon with the default options on this host. If NoSystemd is set, the
// daemon does not become a service of systemd, even if systemd is the init.
type StartRequest struct {
	// Socket is the path of the socket at which the daemon must answer.
	Socket    string
	NoSystemd bool
}

// StartedDaemon is a daemon that a command has started.
type StartedDaemon struct {
	// Unit is the service of systemd that runs the daemon. If Unit is empty, the daemon is a plain
	// process: PID is its id and Log its log file.
	Unit string
	PID  int
	Log  string
	// Program is the file that was started. Copied is set if this start has copied the program
	// there.
	Program string
	Copied  bool
	// Undo ends the daemon and brings the host back to its state before the start.
	Undo func(context.Context) error
}

// StartLocal starts the daemon of this host, for verbs that make the host a member. It starts
// nothing and returns nil if a daemon runs, if StartDaemon is nil, or if the user named a daemon
// with -H or SWARM_HOST, because the user must start that one.
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
