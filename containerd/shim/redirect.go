//go:build linux

package shim

import (
	"os/exec"
	"slices"

	runc "github.com/containerd/go-runc"
)

// monitor starts the runc of containerd's shim, and makes a container that runc creates write into
// the outputs of this package.
type monitor struct {
	runc.ProcessMonitor
	rec *recorder
}

func (m monitor) Start(c *exec.Cmd) (chan runc.Exit, error) {
	m.rec.redirect(c)
	return m.ProcessMonitor.Start(c)
}

func (m monitor) StartLocked(c *exec.Cmd) (chan runc.Exit, error) {
	m.rec.redirect(c)
	return m.ProcessMonitor.StartLocked(c)
}

// redirect gives the pipes of a container's outputs to a command that creates the container. The
// last argument is the container's id.
func (r *recorder) redirect(c *exec.Cmd) {
	if !slices.Contains(c.Args, "create") {
		return
	}
	w := r.get(c.Args[len(c.Args)-1])
	if w == nil {
		return
	}
	for _, o := range w.output {
		switch {
		case o.fifo != "":
		case o.stderr:
			c.Stderr = o.keep
		default:
			c.Stdout = o.keep
		}
	}
}
