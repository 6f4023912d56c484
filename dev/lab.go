//go:build linux

// Package dev makes hosts out of network namespaces, on one machine: the
// playground of `swarm dev` and the harness of the scenarios.
//
// Two layers. A Lab is hosts on a switch, with faults and with processes started
// inside; it knows nothing of swarm. A Playground runs `swarm daemon` in every
// host of a lab and joins them into a cluster. Both keep their state in files, so
// that any process can find, disturb and remove what another one made, also after
// a crash.
//
// It owns /run/swarm-dev/<name> and the playground's root folder, and the
// processes, mounts and cgroups that belong to its hosts; it touches nothing
// else of the machine and changes no setting of it. It talks to the daemons only
// through the swarm binary, as a user would. Callers: cmd (for cli), scenarios.
// Goroutines: none outlives a call.
package dev

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"swarm/overlay/netns"
	"swarm/overlay/vswitch"
)

// Machine is what faults call the machine itself.
const Machine = vswitch.Machine

// LabConfig says where a lab lives.
type LabConfig struct {
	// Dir holds the namespaces' pins; it is created and removed with the lab.
	Dir string
	// Name tells labs of one machine apart.
	Name string
	// Subnet of the hosts (IPv4); the first address is the machine's.
	Subnet netip.Prefix
	// MTU of every cable; 0 is 1500.
	MTU int
	// IPv6: hosts have an IPv6 address too.
	IPv6 bool
}

// Lab is hosts on a switch.
type Lab struct {
	sw    *vswitch.Switch
	hosts []vswitch.Host
}

// NewLab creates an empty lab. It needs root.
func NewLab(cfg LabConfig) (*Lab, error) {
	l, err := openLab(cfg, nil)
	if err != nil {
		return nil, err
	}
	return l, l.sw.Create()
}

// openLab is the handle of a lab that exists, or whose remains shall go.
func openLab(cfg LabConfig, hosts []vswitch.Host) (*Lab, error) {
	sw, err := vswitch.Open(vswitch.Config{Dir: cfg.Dir, Name: cfg.Name, Subnet: cfg.Subnet, MTU: cfg.MTU, IPv6: cfg.IPv6})
	if err != nil {
		return nil, err
	}
	return &Lab{sw: sw, hosts: hosts}, nil
}

// AddHost plugs a new host into the switch.
func (l *Lab) AddHost(name string, addr netip.Addr) error {
	host := vswitch.Host{Name: name, Address: addr}
	for _, h := range l.hosts {
		if h.Name == name || h.Address == addr {
			return fmt.Errorf("add host %s at %s: %w", name, addr, errdefs.ErrAlreadyExists)
		}
	}
	if err := l.sw.AddHost(host); err != nil {
		return err
	}
	l.hosts = append(l.hosts, host)
	return nil
}

// RemoveHost takes the host off the switch. Its namespace goes with its last process.
func (l *Lab) RemoveHost(name string) error {
	h, err := l.host(name)
	if err != nil {
		return err
	}
	if err := l.sw.RemoveHost(h); err != nil {
		return err
	}
	l.hosts = slices.DeleteFunc(l.hosts, func(o vswitch.Host) bool { return o == h })
	return nil
}

// Close removes the switch and every host. Processes inside are the caller's to end.
func (l *Lab) Close() error { return l.sw.Remove() }

// NamespacePath is the pin of the host's network namespace.
func (l *Lab) NamespacePath(host string) string { return l.sw.NamespacePath(host) }

// MachineAddress is where hosts reach the machine.
func (l *Lab) MachineAddress() netip.Addr { return l.sw.MachineAddress() }

// Do runs fn on a thread inside the host's network namespace.
func (l *Lab) Do(host string, fn func() error) error {
	ns, err := l.open(host)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(fn)
}

// Start starts cmd inside the host: its network, and its name as hostname. Mounts
// and processes are the machine's. The caller waits for cmd.
func (l *Lab) Start(host string, cmd *exec.Cmd) error {
	ns, err := l.open(host)
	if err != nil {
		return err
	}
	defer ns.Close()
	return netns.Thread(func() error {
		if err := become(ns, host); err != nil {
			return err
		}
		return cmd.Start()
	})
}

// Exec replaces the calling process by argv inside the host. It returns only an error.
func (l *Lab) Exec(host string, argv0 string, argv, env []string) error {
	ns, err := l.open(host)
	if err != nil {
		return err
	}
	defer ns.Close()
	return netns.Thread(func() error {
		if err := become(ns, host); err != nil {
			return err
		}
		return &os.PathError{Op: "exec", Path: argv0, Err: syscall.Exec(argv0, argv, env)}
	})
}

// become turns the calling thread into one of the host's.
func become(ns *netns.Namespace, hostname string) error {
	if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("unshare hostname: %w", err)
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set hostname: %w", err)
	}
	return ns.Enter()
}

// SetCable plugs or unplugs the host's only cable.
func (l *Lab) SetCable(host string, plugged bool) error {
	h, err := l.host(host)
	if err != nil {
		return err
	}
	return l.sw.SetCable(h, plugged)
}

// SetFaults replaces all faults.
func (l *Lab) SetFaults(faults ...vswitch.Fault) error { return l.sw.SetFaults(l.hosts, faults) }

func (l *Lab) host(name string) (vswitch.Host, error) {
	for _, h := range l.hosts {
		if h.Name == name {
			return h, nil
		}
	}
	return vswitch.Host{}, fmt.Errorf("host %s: %w", name, errdefs.ErrNotFound)
}

func (l *Lab) open(host string) (*netns.Namespace, error) {
	if _, err := l.host(host); err != nil {
		return nil, err
	}
	ns, err := netns.Open(l.sw.NamespacePath(host))
	if errdefs.IsNotFound(err) {
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("host %s is off: start it first", host))
	}
	return ns, err
}
