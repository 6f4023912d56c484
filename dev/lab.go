//go:build linux

// Package dev makes hosts from network namespaces on one machine. It is the playground of `swarm
// dev` and the harness of the scenarios.
//
// The package has two layers. A Lab has hosts on a switch, network faults between them, and
// processes in them; it does not know swarm. A Playground runs `swarm daemon` in every host of a
// lab and makes the hosts a cluster. Both keep their state in files. So any process can find,
// change and remove a playground that another process has made, even after a crash of that process.
//
// The package owns /run/swarm-dev/NAME, the playground's root folder, and the processes, mounts and
// cgroups of its hosts. It changes no settings of the machine. It talks to the daemons only through
// the swarm program, as a user does. Its callers are cmd/swarm and the scenarios. No goroutine
// outlives a call.
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

// Machine is the name of the machine itself in faults.
const Machine = vswitch.Machine

// LabConfig configures a lab.
type LabConfig struct {
	// Dir is the folder with the pins of the namespaces. It is made and removed with the lab.
	Dir string
	// Name is unique on the machine.
	Name string
	// Subnet is the IPv4 range of the hosts. The machine has its first address.
	Subnet netip.Prefix
	// MTU is the MTU of every cable in bytes. The default is 1500.
	MTU int
	// IPv6 gives the hosts IPv6 addresses too.
	IPv6 bool
}

// Lab is a switch with hosts.
type Lab struct {
	sw    *vswitch.Switch
	hosts []vswitch.Host
}

// NewLab makes a lab without hosts. The caller must be root.
func NewLab(cfg LabConfig) (*Lab, error) {
	l, err := openLab(cfg, nil)
	if err != nil {
		return nil, err
	}
	return l, l.sw.Create()
}

// openLab returns the handle of a lab that exists, or whose remains are to be removed.
func openLab(cfg LabConfig, hosts []vswitch.Host) (*Lab, error) {
	sw, err := vswitch.Open(vswitch.Config{Dir: cfg.Dir, Name: cfg.Name, Subnet: cfg.Subnet, MTU: cfg.MTU, IPv6: cfg.IPv6})
	if err != nil {
		return nil, err
	}
	return &Lab{sw: sw, hosts: hosts}, nil
}

// AddHost makes a host and connects it to the switch.
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

// RemoveHost disconnects a host from the switch. Its namespace ends with its last process.
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

// Close removes the switch and every host. The caller ends the processes in the hosts.
func (l *Lab) Close() error { return l.sw.Remove() }

// NamespacePath returns the path of the pin of a host's network namespace.
func (l *Lab) NamespacePath(host string) string { return l.sw.NamespacePath(host) }

// MachineAddress returns the address at which hosts reach the machine.
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

// Start starts cmd with the network of a host and with its name as the hostname. Mounts and
// processes are the machine's. The caller waits for cmd.
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

// Exec replaces the calling process by argv inside a host. It returns only if that fails.
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

// become moves the calling thread into a host.
func become(ns *netns.Namespace, hostname string) error {
	if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("unshare hostname: %w", err)
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set hostname: %w", err)
	}
	return ns.Enter()
}

// SetCable plugs or unplugs a host's only cable.
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
