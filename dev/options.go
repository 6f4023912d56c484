//go:build linux

package dev

import (
	"fmt"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

const (
	// runRoot has a folder for each playground, with pins, the record, and the hosts' sockets.
	runRoot = "/run/swarm-dev"
	// stateRoot is the default parent of the playgrounds' root folders.
	stateRoot = "/var/lib/swarm-dev"
	// hostOffset is the index of the address before that of the first host. The address of node1
	// ends in .11, which differs clearly from that of the machine, which ends in .1.
	hostOffset = 10
	// controlPort is the port at which managers answer joins.
	controlPort = 2377
)

// Options configure a playground. The zero value has five hosts, of which three are managers.
type Options struct {
	// Name is unique on the machine: at most 12 lower-case letters, digits and dashes. The default
	// is "dev".
	Name string
	// Nodes is the number of hosts, and Managers the number of managers among them.
	Nodes, Managers int
	// Root is the folder with one folder of state for each host. It must be absent or empty. The
	// default is /var/lib/swarm-dev/NAME.
	Root string
	// Subnet is the IPv4 range of the hosts. The default is the first 10.213.N.0/24 that the
	// machine does not route.
	Subnet netip.Prefix
	// MTU is the MTU of the hosts' interfaces in bytes. The default is 1500.
	MTU int
	// IPv6 gives the hosts IPv6 addresses too. Advertise6 makes the cluster use the IPv6 addresses,
	// and implies IPv6.
	IPv6, Advertise6 bool
	// Disk is the size in bytes of a file system for each host's state. With 0, the state is on the
	// machine's file system.
	Disk int64
	// Binary is the path of the swarm program. The default is the running program.
	Binary string
	// Simulated is the number of hosts that simulate containers. They are the last hosts.
	Simulated int
	// DaemonArgs, InitArgs and JoinArgs are added to `swarm daemon`, `swarm init` and `swarm join`.
	DaemonArgs, InitArgs, JoinArgs []string
	// Env is added to the environment of the daemons, as NAME=value.
	Env []string
	// NoCluster leaves the daemons running without init and join.
	NoCluster bool
	// KeepFailed keeps the playground if Up fails, so that it can be inspected.
	KeepFailed bool
	// StartTimeout bounds the start of each daemon, and each init and join. The default is 30 s.
	StartTimeout time.Duration
	// Progress is called with one line for each step. Optional.
	Progress func(string)
}

func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		o.Name = defaultName
	}
	if o.Nodes == 0 {
		o.Nodes = 5
	}
	if o.Managers == 0 {
		o.Managers = min(3, o.Nodes)
	}
	if o.Root == "" {
		o.Root = filepath.Join(stateRoot, o.Name)
	}
	o.IPv6 = o.IPv6 || o.Advertise6
	if o.StartTimeout == 0 {
		o.StartTimeout = 30 * time.Second
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Binary == "" {
		exe, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("find the swarm binary: %w", err)
		}
		o.Binary = exe
	}
	return o, o.validate()
}

func (o Options) validate() error {
	invalid := func(format string, args ...any) error {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
	}
	if err := validName(o.Name); err != nil {
		return err
	}
	switch {
	case o.Nodes < 1 || o.Nodes > 200:
		return invalid("%d nodes: give 1 to 200", o.Nodes)
	case o.Managers < 1 || o.Managers > o.Nodes:
		return invalid("%d managers: give 1 to %d, the number of nodes", o.Managers, o.Nodes)
	case o.Simulated < 0 || o.Simulated > o.Nodes:
		return invalid("%d simulated nodes of %d", o.Simulated, o.Nodes)
	case o.Disk != 0 && o.Disk < 64<<20:
		return invalid("a disk of %d bytes: give at least 64 MiB", o.Disk)
	case !filepath.IsAbs(o.Root) || filepath.Clean(o.Root) == "/":
		return invalid("root folder %q: give an absolute path", o.Root)
	case o.Subnet.IsValid() && (!o.Subnet.Addr().Is4() || 1<<(32-o.Subnet.Bits()) < hostOffset+o.Nodes+2):
		return invalid("subnet %s: give an IPv4 range with room for %d hosts", o.Subnet, o.Nodes)
	}
	return nil
}

// defaultName is the name of a playground if no name is given.
const defaultName = "dev"

// nameFlag returns the flag that selects the playground on the command line. It is empty for the
// default name.
func nameFlag(name string) string {
	if name == defaultName {
		return ""
	}
	return " --name " + name
}

// validName returns ErrInvalidArgument if the name is too long or has other characters than
// lower-case letters, digits and dashes. The name is part of the names of a folder and a cgroup,
// and of a unix socket's path, which has at most 107 bytes.
func validName(name string) error {
	if name == "" || len(name) > 12 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("playground name %q is not valid: give 1 to 12 small letters, digits and dashes", name))
	}
	return nil
}

// chooseSubnet returns wish if the machine does not route it, or a free range if wish is not valid.
func chooseSubnet(wish netip.Prefix) (netip.Prefix, error) {
	here, err := netns.Current()
	if err != nil {
		return netip.Prefix{}, err
	}
	defer here.Close()
	h, err := here.Netlink()
	if err != nil {
		return netip.Prefix{}, err
	}
	defer h.Close()
	used, err := hostnet.Used(h)
	if err != nil {
		return netip.Prefix{}, err
	}
	if !wish.IsValid() {
		return hostnet.Choose(used, candidates())
	}
	if taken, conflict := hostnet.Conflict(used, wish); conflict {
		return netip.Prefix{}, fmt.Errorf("subnet %s overlaps %s, which this machine routes; name another: %w",
			wish, taken, errdefs.ErrFailedPrecondition)
	}
	return wish.Masked(), nil
}

func candidates() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for n := range 256 {
			if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 213, byte(n), 0}), 24)) {
				return
			}
		}
	}
}
