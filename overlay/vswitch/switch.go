//go:build linux

// Package vswitch joins network namespaces by an Ethernet switch, so that one
// machine can hold several pretend hosts.
//
// The switch (a bridge) lives in a namespace of its own: the machine's firewall,
// its bridge-nf-call-iptables and its FORWARD policy never see a frame between
// hosts, and removing the namespace removes all of it. One cable, a veth, leads
// from the switch to the machine, which can thus reach every host. Faults are
// made in the switch, outside the hosts, which cannot notice or undo them.
//
// It owns the folder it is given and the machine's end of the cable. It starts no
// process and keeps no memory beside the pins in that folder: any process may
// Open a switch. Caller: dev. No goroutines.
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
	// macHost is the second byte of a host's hardware address.
	macHost = 0xd0
	// hostInterface is what a host calls its end of the cable.
	hostInterface = "eth0"
)

// Machine is the name, in faults, of the machine itself.
const Machine = "machine"

// Config of a switch.
type Config struct {
	// Dir holds the pins and nothing else; it is created and removed with the switch.
	Dir string
	// Name tells switches of one machine apart; the machine's interface derives from it.
	Name string
	// Subnet (IPv4) of the hosts; the machine takes the first address.
	Subnet netip.Prefix
	// MTU of every cable; 0 is 1500.
	MTU int
	// IPv6: hosts and the machine have an IPv6 address too, which Second derives from the other.
	IPv6 bool
}

// Second is the IPv6 address of who has the given one on a switch with that subnet.
func Second(subnet netip.Prefix, addr netip.Addr) netip.Addr {
	prefix, host := subnet.Masked().Addr().As4(), addr.As4()
	out := [16]byte{0xfd, 0x53, 0x77, 0x61} // A unique local /64 of the subnet's own.
	copy(out[4:], prefix[:])
	copy(out[12:], host[:])
	return netip.AddrFrom16(out)
}

// addresses are what whoever is at addr has on its interface.
func (s *Switch) addresses(addr netip.Addr) []netip.Prefix {
	out := []netip.Prefix{netip.PrefixFrom(addr, s.cfg.Subnet.Bits())}
	if s.cfg.IPv6 {
		out = append(out, netip.PrefixFrom(Second(s.cfg.Subnet, addr), 64))
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

// Switch is a handle; the switch itself outlives it.
type Switch struct {
	cfg Config
}

// Open returns the handle of a switch, made already or not.
func Open(cfg Config) (*Switch, error) {
	if cfg.MTU == 0 {
		cfg.MTU = 1500
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Switch{cfg: cfg}, nil
}

// MachineInterface is the name of the machine's end of the cable.
func (s *Switch) MachineInterface() string {
	sum := sha256.Sum256([]byte(s.cfg.Name))
	return "swd-" + hex.EncodeToString(sum[:4])
}

// MachineAddress is where hosts reach the machine.
func (s *Switch) MachineAddress() netip.Addr { return hostnet.Nth(s.cfg.Subnet, 1) }

// NamespacePath is the pin of a host's namespace.
func (s *Switch) NamespacePath(host string) string {
	return filepath.Join(s.cfg.Dir, host+".ns")
}

func (s *Switch) switchPath() string { return filepath.Join(s.cfg.Dir, ".switch.ns") }

// Create makes the switch and its cable to the machine.
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
		if err := quietBridge(ns); err != nil {
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
		if err := s.cableToMachine(ns); err != nil {
			return fmt.Errorf("cable to the machine: %w", err)
		}
		return plug(h, uplinkName)
	})
}

// quietBridge keeps iptables away from bridged frames, and the switch from routing.
func quietBridge(ns *netns.Namespace) error {
	err := ns.SetSysctls(map[string]string{"ipv4.ip_forward": "0", "ipv6.conf.all.disable_ipv6": "1"})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return noBridgeFilter(ns)
}

// noBridgeFilter: the keys are absent when br_netfilter is not loaded, which is as good.
func noBridgeFilter(ns *netns.Namespace) error {
	err := ns.SetSysctls(map[string]string{
		"bridge.bridge-nf-call-iptables":  "0",
		"bridge.bridge-nf-call-ip6tables": "0",
	})
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (s *Switch) cableToMachine(ns *netns.Namespace) error {
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
		return s.address(h, name, s.MachineAddress())
	})
}

// Exists reports whether the switch has been created and not removed.
func (s *Switch) Exists() bool { return netns.Pinned(s.switchPath()) }

// Remove deletes the switch, every host's pin and the folder. It succeeds on
// what a crash has left, and when there is nothing. Processes inside hosts are
// the caller's to end first: a namespace lives as long as one of them.
func (s *Switch) Remove() error {
	var errs []error
	pins, err := filepath.Glob(filepath.Join(s.cfg.Dir, "*.ns"))
	if err != nil {
		return err
	}
	for _, pin := range append(pins, s.switchPath()) {
		errs = append(errs, netns.Delete(pin))
	}
	// A namespace dies in the background, and its cables with it. Deleting the
	// machine's end here makes the name and the address free at once.
	errs = append(errs, onMachine(func(h *netlink.Handle) error { return deleteLink(h, s.MachineInterface()) }))
	if err := os.Remove(s.cfg.Dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// onMachine runs fn with a handle on the namespace of the machine.
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

// inside runs fn with handles on the switch's namespace.
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
