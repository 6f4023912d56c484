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
	// runRoot holds a folder for each playground: pins, state, and the hosts' sockets.
	runRoot = "/run/swarm-dev"
	// stateRoot is the default parent of the playgrounds' root folders.
	stateRoot = "/var/lib/swarm-dev"
	// hostOffset: the first host's address is this far into the subnet, so that
	// node1 ends in .11 and the machine, at .1, is not taken for one of them.
	hostOffset = 10
	// controlPort is where managers answer joins.
	controlPort = 2377
)

// Options of a playground. The zero value is five hosts, three of them managers.
type Options struct {
	// Name tells playgrounds of one machine apart; default "dev". At most 12
	// small letters, digits and dashes.
	Name string
	// Nodes is the number of hosts, Managers how many of them are managers.
	Nodes, Managers int
	// Root folder of the hosts' state, one folder a host; it must be absent or
	// empty. Default /var/lib/swarm-dev/<name>.
	Root string
	// Subnet of the hosts; default the first 10.213.n.0/24 that the machine does not route.
	Subnet netip.Prefix
	// MTU of the hosts' interfaces; default 1500.
	MTU int
	// IPv6: hosts have an IPv6 address too. Advertise6: it is the one that the cluster uses.
	IPv6, Advertise6 bool
	// Disk is the size in bytes of the file system of its own that each host's state folder is on; 0: on the machine's.
	Disk int64
	// Binary is the swarm to run; default the running program.
	Binary string
	// Simulated is how many of the hosts, the last ones, run no containers: their daemons pretend to.
	Simulated int
	// DaemonArgs, InitArgs and JoinArgs are added to the commands of that name.
	DaemonArgs, InitArgs, JoinArgs []string
	// Env is added to the daemons' environment.
	Env []string
	// NoCluster leaves the daemons running without init and join.
	NoCluster bool
	// KeepFailed leaves a playground that could not be brought up as it is, to be looked at.
	KeepFailed bool
	// StartTimeout bounds each daemon's start and each init and join; default 30 s.
	StartTimeout time.Duration
	// Progress is told what happens, one line at a time.
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

// defaultName is that of a playground for which none is given.
const defaultName = "dev"

// nameFlag is the flag by which the command line finds a playground.
func nameFlag(name string) string {
	if name == defaultName {
		return ""
	}
	return " --name " + name
}

// validName keeps the name fit for a folder, a cgroup and, with a host's name, for
// a unix socket's path of at most 107 bytes.
func validName(name string) error {
	if name == "" || len(name) > 12 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("playground name %q is not valid: give 1 to 12 small letters, digits and dashes", name))
	}
	return nil
}

// chooseSubnet takes the wish when the machine does not route it, or finds a free range.
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
