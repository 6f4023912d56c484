//go:build linux

// Package vswitch connects network namespaces with an Ethernet switch, so that one machine can
// simulate several hosts in tests.
//
// The switch is a bridge in a separate namespace. So the machine's firewall, its sysctl
// bridge-nf-call-iptables and its FORWARD policy do not apply to frames between the hosts, and
// deleting the namespace deletes the whole switch. One cable, a veth pair, connects the switch to
// the machine, which can reach every host. Faults are rules in the switch. The hosts cannot see or
// remove them.
//
// The package owns the folder in Config.Dir and the machine's end of the cable. It starts no
// process, and its only state is the pins in that folder, so any process may open the switch.
// Callers: dev, and tests of other overlay packages. It has no goroutines.
package vswitch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

const (
	bridgeName = "switch"
	uplinkName = "uplink"
	// macHost is the second byte of a host's MAC address.
	macHost = 0xd0
	// hostInterface is the name of a host's end of the cable.
	hostInterface = "eth0"
)

// Machine is the name of the machine itself in faults.
const Machine = "machine"

// Config configures a Switch.
type Config struct {
	// Dir is the folder of the pins. It has nothing else; it is created and removed with the
	// switch.
	Dir string
	// Name distinguishes the switches on one machine. The name of the machine's interface derives
	// from it.
	Name string
	// Subnet is the IPv4 range of the hosts, /28 or larger. The machine has the first address.
	Subnet netip.Prefix
	// MTU is the MTU of every cable, 576 to 65535. 0 means 1500.
	MTU int
	// IPv6 gives each host and the machine an IPv6 address too, see IPv6Address.
	IPv6 bool
}

// IPv6Address returns the IPv6 address of the host that has the IPv4 address addr on a switch with
// that subnet.
func IPv6Address(subnet netip.Prefix, addr netip.Addr) netip.Addr {
	prefix, host := subnet.Masked().Addr().As4(), addr.As4()
	out := [16]byte{0xfd, 0x53, 0x77, 0x61} // A unique local /64 for each subnet.
	copy(out[4:], prefix[:])
	copy(out[12:], host[:])
	return netip.AddrFrom16(out)
}

// addresses returns the prefixes of an interface with the IPv4 address addr.
func (s *Switch) addresses(addr netip.Addr) []netip.Prefix {
	out := []netip.Prefix{netip.PrefixFrom(addr, s.cfg.Subnet.Bits())}
	if s.cfg.IPv6 {
		out = append(out, netip.PrefixFrom(IPv6Address(s.cfg.Subnet, addr), 64))
	}
	return out
}

func (c Config) validate() error {
	switch {
	case c.Dir == "" || c.Name == "":
		return fmt.Errorf("a switch needs a folder and a name: %w", errdefs.ErrInvalidArgument)
	case !c.Subnet.IsValid() || !c.Subnet.Addr().Is4() || c.Subnet.Bits() > 28:
		return fmt.Errorf("subnet %s: give an IPv4 range of /28 or wider: %w", c.Subnet, errdefs.ErrInvalidArgument)
	case c.MTU < 576 || c.MTU > 65535:
		return fmt.Errorf("mtu %d: give 576 to 65535: %w", c.MTU, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Switch is a handle of a switch. The switch itself exists until Remove.
type Switch struct {
	cfg Config
}

// Open returns a handle of the switch, which need not exist yet. The error is ErrInvalidArgument if
// cfg is not valid.
func Open(cfg Config) (*Switch, error) {
	if cfg.MTU == 0 {
		cfg.MTU = 1500
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Switch{cfg: cfg}, nil
}

// MachineInterface returns the name of the machine's end of the cable.
func (s *Switch) MachineInterface() string {
	sum := sha256.Sum256([]byte(s.cfg.Name))
	return "swd-" + hex.EncodeToString(sum[:4])
}

// MachineAddress returns the address at which hosts reach the machine.
func (s *Switch) MachineAddress() netip.Addr { return hostnet.Nth(s.cfg.Subnet, 1) }

// NamespacePath returns the path of the pin of a host's namespace.
func (s *Switch) NamespacePath(host string) string {
	return filepath.Join(s.cfg.Dir, host+".ns")
}

func (s *Switch) switchPath() string { return filepath.Join(s.cfg.Dir, ".switch.ns") }

// Create creates the switch and its cable to the machine. It needs root.
func (s *Switch) Create() error {
	if err := netns.Create(s.switchPath()); err != nil {
		return fmt.Errorf("create switch %s: %w", s.cfg.Name, err)
	}
	if err := s.build(); err != nil {
		return errors.Join(fmt.Errorf("create switch %s: %w", s.cfg.Name, err), s.Remove())
	}
	return nil
}

func (s *Switch) build() error {
	return s.inside(func(ns *netns.Namespace, h *netlink.Handle) error {
		if err := disableRouting(ns); err != nil {
			return err
		}
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName, MTU: s.cfg.MTU}}
		snooping := false
		br.MulticastSnooping = &snooping
		if err := h.LinkAdd(br); err != nil {
			return fmt.Errorf("bridge: %w", err)
		}
		if err := setUp(h, bridgeName); err != nil {
			return err
		}
		if err := s.connectMachine(ns); err != nil {
			return fmt.Errorf("cable to the machine: %w", err)
		}
		return attachPort(h, uplinkName)
	})
}

// disableRouting makes the switch's namespace only switch frames: it does not route, and iptables
// does not filter bridged frames.
func disableRouting(ns *netns.Namespace) error {
	err := ns.SetSysctls(map[string]string{"ipv4.ip_forward": "0", "ipv6.conf.all.disable_ipv6": "1"})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return disableBridgeNetfilter(ns)
}

// disableBridgeNetfilter stops iptables from filtering bridged frames. The keys do not exist if
// br_netfilter is not loaded, and then nothing filters them.
func disableBridgeNetfilter(ns *netns.Namespace) error {
	err := ns.SetSysctls(map[string]string{
		"bridge.bridge-nf-call-iptables":  "0",
		"bridge.bridge-nf-call-ip6tables": "0",
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (s *Switch) connectMachine(ns *netns.Namespace) error {
	return onMachine(func(h *netlink.Handle) error {
		name := s.MachineInterface()
		if old, err := h.LinkByName(name); err == nil {
			if err := h.LinkDel(old); err != nil {
				return fmt.Errorf("left-over interface %s: %w", name, err)
			}
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = name, s.cfg.MTU
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace, veth.PeerMTU = uplinkName, netlink.NsFd(ns.FD()), uint32(s.cfg.MTU)
		if err := h.LinkAdd(veth); err != nil {
			return err
		}
		return s.configureInterface(h, name, s.MachineAddress())
	})
}

// Exists reports whether the switch has been created and not removed.
func (s *Switch) Exists() bool { return netns.Pinned(s.switchPath()) }

// Remove deletes the switch, all pins and the folder. It also works after a crash, and returns nil
// if there is no switch. The caller must end the processes inside the hosts first, because each
// process keeps its namespace alive.
func (s *Switch) Remove() error {
	var errs []error
	pins, err := filepath.Glob(filepath.Join(s.cfg.Dir, "*.ns"))
	if err != nil {
		return err
	}
	for _, pin := range append(pins, s.switchPath()) {
		errs = append(errs, netns.Delete(pin))
	}
	// The kernel deletes a namespace and its cables in the background. Deleting the machine's end
	// here frees the name and the address at once.
	errs = append(errs, onMachine(func(h *netlink.Handle) error { return deleteLink(h, s.MachineInterface()) }))
	if err := os.Remove(s.cfg.Dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// onMachine runs fn with a netlink handle of the machine's namespace.
func onMachine(fn func(*netlink.Handle) error) error {
	here, err := netns.Current()
	if err != nil {
		return err
	}
	defer here.Close()
	h, err := here.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	return fn(h)
}

// inside runs fn with handles of the switch's namespace.
func (s *Switch) inside(fn func(*netns.Namespace, *netlink.Handle) error) error {
	ns, err := netns.Open(s.switchPath())
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := ns.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	return fn(ns, h)
}
