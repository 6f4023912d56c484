//go:build linux

package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"swarm/overlay/vswitch"
)

// State is the state of a host and its daemon.
type State string

// The states.
const (
	Running State = "running"
	// Stopped: the host is on the switch and its daemon does not run. Its containers may run.
	Stopped State = "stopped"
	// Off: nothing of the host runs, and it is not on the switch.
	Off State = "off"
)

// Host describes one host of a playground.
type Host struct {
	Name    string
	Role    Role
	Address netip.Addr
	// Address6 is not valid if the hosts have no IPv6 addresses.
	Address6 netip.Addr
	// PID is the process ID of the daemon, or 0 if the daemon does not run.
	PID   int
	State State
	// Unplugged is set if the host is cut off from all other hosts.
	Unplugged bool
	// Socket is the path of the daemon's socket, for `swarm -H unix://PATH`.
	Socket string
	// StateDir, RunDir and Log are the daemon's files on this machine.
	StateDir, RunDir, Log string
	// Namespace is the pin of the host's network namespace.
	Namespace string
}

// Hosts returns the hosts in the order in which they were made.
func (p *Playground) Hosts() ([]Host, error) {
	r, err := load(p.name)
	if err != nil {
		return nil, err
	}
	hosts := make([]Host, 0, len(r.Hosts))
	for _, h := range r.Hosts {
		hosts = append(hosts, r.describe(h))
	}
	return hosts, nil
}

// Host returns the host with a name. The error is ErrNotFound if there is none.
func (p *Playground) Host(name string) (Host, error) {
	r, err := load(p.name)
	if err != nil {
		return Host{}, err
	}
	h, err := r.host(name)
	if err != nil {
		return Host{}, err
	}
	return r.describe(*h), nil
}

func (r *record) describe(h hostRecord) Host {
	out := Host{
		Name: h.Name, Role: h.Role, Address: h.Address, State: Stopped, Unplugged: h.Unplugged,
		Socket: r.socket(h.Name), StateDir: r.stateDir(h.Name), RunDir: r.hostRunDir(h.Name),
		Log: r.daemonLog(h.Name), Namespace: r.pinDir() + "/" + h.Name + ".ns",
	}
	if r.IPv6 {
		out.Address6 = vswitch.IPv6Address(r.Subnet, h.Address)
	}
	switch {
	case h.Off:
		out.State = Off
	case h.Daemon.alive():
		out.State, out.PID = Running, h.Daemon.PID
	}
	return out
}

// Start starts the daemon of a stopped host. If the host is off, Start turns it on first. Start
// returns when the daemon answers.
func (p *Playground) Start(ctx context.Context, host string) error {
	return p.change(host, func(r *record, lab *Lab, h *hostRecord) error {
		if h.Daemon.alive() {
			return nil
		}
		if err := r.powerOn(lab, h); err != nil {
			return err
		}
		if err := r.save(); err != nil {
			return err
		}
		return r.waitReady(ctx, h, 30*time.Second)
	})
}

// Stop asks a host's daemon to end, as a restart of its service does, and waits until it has ended.
// The container runtime and the containers continue to run.
func (p *Playground) Stop(ctx context.Context, host string) error {
	return p.change(host, func(_ *record, _ *Lab, h *hostRecord) error {
		return h.Daemon.kill(ctx, unix.SIGTERM)
	})
}

// Kill ends a host's daemon with SIGKILL. The containers continue to run.
func (p *Playground) Kill(ctx context.Context, host string) error {
	return p.change(host, func(_ *record, _ *Lab, h *hostRecord) error {
		return h.Daemon.kill(ctx, unix.SIGKILL)
	})
}

// Shutdown shuts a host down and turns it off: its daemon stops its tasks and says goodbye to the
// cluster. Start turns the host on again.
func (p *Playground) Shutdown(ctx context.Context, host string) error {
	err := p.change(host, func(_ *record, _ *Lab, h *hostRecord) error {
		return h.Daemon.kill(ctx, unix.SIGPWR)
	})
	if err != nil {
		return err
	}
	return p.PowerOff(ctx, host)
}

// PowerOff turns a host off as a power failure does: every process dies at once, mounts, sockets
// and the network are lost, and the disk stays. Start turns the host on again.
func (p *Playground) PowerOff(ctx context.Context, host string) error {
	return p.change(host, func(r *record, lab *Lab, h *hostRecord) error {
		if h.Off {
			return nil
		}
		// Cut the network first, because the peers must not see that connections are closed.
		if err := lab.SetCable(h.Name, false); err != nil {
			return err
		}
		if err := r.hostScope(h.Name).Sweep(ctx); err != nil {
			return err
		}
		if err := os.RemoveAll(r.hostRunDir(h.Name)); err != nil {
			return err
		}
		if err := lab.RemoveHost(h.Name); err != nil {
			return err
		}
		h.Off, h.Daemon = true, process{}
		return nil
	})
}

// change runs fn on a host while it holds the playground's lock, and saves the record.
func (p *Playground) change(host string, fn func(*record, *Lab, *hostRecord) error) error {
	return p.edit(func(r *record, lab *Lab) error {
		h, err := r.host(host)
		if err != nil {
			return err
		}
		if err := fn(r, lab, h); err != nil {
			return fmt.Errorf("host %s: %w", host, err)
		}
		return nil
	})
}

// edit runs fn while it holds the playground's lock, and saves the record.
func (p *Playground) edit(fn func(*record, *Lab) error) error {
	unlock, err := lock(runDir(p.name))
	if err != nil {
		return err
	}
	defer unlock()
	r, err := load(p.name)
	if err != nil {
		return err
	}
	lab, err := r.lab()
	if err != nil {
		return err
	}
	if err := fn(r, lab); err != nil {
		return err
	}
	return r.save()
}

// powerOn starts a host's daemon. If the host is off, powerOn connects it to the switch first.
func (r *record) powerOn(lab *Lab, h *hostRecord) error {
	if h.Off {
		if err := lab.AddHost(h.Name, h.Address); err != nil {
			return err
		}
		h.Off = false
		if err := r.applyFaults(lab); err != nil {
			return err
		}
		if h.Unplugged {
			if err := lab.SetCable(h.Name, false); err != nil {
				return err
			}
		}
	}
	if err := r.mountDisk(h); err != nil {
		return fmt.Errorf("disk of %s: %w", h.Name, err)
	}
	for _, dir := range []string{r.stateDir(h.Name), r.hostRunDir(h.Name)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	log, err := os.OpenFile(r.daemonLog(h.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{
		"daemon", "--state-dir", r.stateDir(h.Name), "--run-dir", r.hostRunDir(h.Name),
		"--hostname", h.Name, "--machine-id", r.machineID(h.Name), "--cgroup-parent", r.cgroupParent(h.Name),
	}
	if h.Simulated {
		args = append(args, "--simulated")
	}
	cmd := exec.Command(r.Binary, append(args, r.DaemonArgs...)...)
	cmd.Env = append(os.Environ(), envPlayground+"="+r.Name, envHost+"="+r.key(h.Name))
	cmd.Env = append(cmd.Env, r.Env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	// Start the daemon in a new session, so that it does not get the terminal's Ctrl-C.
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := lab.Start(h.Name, cmd); err != nil {
		return fmt.Errorf("start daemon of %s: %w", h.Name, err)
	}
	if h.Daemon, err = identifyProcess(cmd.Process.Pid); err != nil {
		return fmt.Errorf("start daemon of %s: %w", h.Name, err)
	}
	return cmd.Process.Release()
}

// waitReady waits until the daemon answers on its socket.
func (r *record) waitReady(ctx context.Context, h *hostRecord, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer on %s after %s", r.socket(h.Name), limit))
	defer cancel()
	err := poll(ctx, func() (bool, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", r.socket(h.Name))
		if err == nil {
			return true, c.Close()
		}
		if !h.Daemon.alive() {
			h.Daemon.reap()
			return false, errors.New("it ended")
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("daemon of %s: %w; its log (%s) ends:\n%s", h.Name, err, r.daemonLog(h.Name), lastLines(r.daemonLog(h.Name), 10))
	}
	return nil
}

// client runs a swarm command against the host's daemon and returns its output.
func (r *record) client(ctx context.Context, o Options, h *hostRecord, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, o.StartTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.Binary, append([]string{"-H", "unix://" + r.socket(h.Name)}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no end after %s: %w", o.StartTimeout, errdefs.ErrUnavailable)
		}
		said := strings.TrimSpace(stderr.String() + stdout.String())
		return "", fmt.Errorf("swarm %s on %s: %w: %s; its log is %s", args[0], h.Name, err, said, r.daemonLog(h.Name))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// lastLines returns the end of a log for an error message. It returns nothing if it cannot read.
func lastLines(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
