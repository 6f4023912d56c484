package command

import "context"

// StartRequest asks for a daemon with the default options on this host. With NoSystemd it does not
// become a service of systemd, also where systemd is the init.
type StartRequest struct {
	// Socket is the path of the socket at which the daemon shall answer.
	Socket    string
	NoSystemd bool
}

// StartedDaemon is a daemon that a command has started.
type StartedDaemon struct {
	// Unit is the service of systemd that runs the daemon. If it is empty, the daemon runs by
	// itself, as process PID with the log file Log.
	Unit string
	PID  int
	Log  string
	// Program is the file that was started, and Copied tells whether it was put there by this
	// start.
	Program string
	Copied  bool
	// Undo ends the daemon and brings the host back to its state before the start.
	Undo func(context.Context) error
}

// StartLocal starts the daemon of this host unless it runs already, for verbs that make the host a
// member. It returns nil if it started nothing: a daemon runs, StartDaemon is nil, or the user
// named a daemon with -H or SWARM_HOST, which is then the user's to start.
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
