//go:build linux

package vswitch

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

// Host is one simulated host on the switch.
type Host struct {
	// Name has 1 to 12 lower-case letters, digits and dashes, because the switch's port is named
	// after it.
	Name    string
	Address netip.Addr
}

// MAC returns the hardware address of the host's interface. It derives from the IP address.
func (h Host) MAC() net.HardwareAddr { return hostnet.MAC(macHost, h.Address) }

func (h Host) port() string { return "p-" + h.Name }

func (h Host) validate(subnet netip.Prefix) error {
	if h.Name == "" || len(h.Name) > 12 || h.Name == Machine ||
		strings.Trim(h.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("host name %q: give 1 to 12 lower-case letters, digits and dashes: %w", h.Name, errdefs.ErrInvalidArgument)
	}
	if !subnet.Contains(h.Address) {
		return fmt.Errorf("host %s: address %s is outside %s: %w", h.Name, h.Address, subnet, errdefs.ErrInvalidArgument)
	}
	return nil
}

// hostSysctls make the hosts independent of the machine: the defaults differ between distributions,
// and a new namespace inherits only some of the machine's values.
var hostSysctls = map[string]string{
	"ipv4.ip_forward":                 "0",
	"ipv4.conf.all.rp_filter":         "0",
	"ipv4.conf.default.rp_filter":     "0",
	"ipv4.conf.all.route_localnet":    "0",
	"ipv4.ip_unprivileged_port_start": "1024",
}

// AddHost creates the host's namespace and connects it to the switch. If it fails, it removes what
// it created. The error is ErrInvalidArgument if the name or the address is not valid, and
// ErrAlreadyExists if the switch has a host of that name.
func (s *Switch) AddHost(host Host) error {
	if err := host.validate(s.cfg.Subnet); err != nil {
		return err
	}
	path := s.NamespacePath(host.Name)
	if err := netns.Create(path); err != nil {
		return fmt.Errorf("add host %s: %w", host.Name, err)
	}
	if err := s.connectHost(host, path); err != nil {
		return errors.Join(fmt.Errorf("add host %s: %w", host.Name, err), s.RemoveHost(host))
	}
	return nil
}

func (s *Switch) connectHost(host Host, path string) error {
	ns, err := netns.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := ns.SetSysctls(hostSysctls); err != nil {
		return err
	}
	if err := disableBridgeNetfilter(ns); err != nil {
		return err
	}
	err = s.inside(func(_ *netns.Namespace, h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = host.port(), s.cfg.MTU
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace = hostInterface, netlink.NsFd(ns.FD())
		veth.PeerMTU, veth.PeerHardwareAddr = uint32(s.cfg.MTU), host.MAC()
		// The kernel may still be deleting a host of the same name and its cable.
		if err := deleteLink(h, host.port()); err != nil {
			return err
		}
		if err := h.LinkAdd(veth); err != nil {
			return fmt.Errorf("cable: %w", err)
		}
		return attachPort(h, host.port())
	})
	if err != nil {
		return err
	}
	h, err := ns.Netlink()
	if err != nil {
		return err
	}
	defer h.Close()
	return s.configureInterface(h, hostInterface, host.Address)
}

// configureInterface gives an interface its addresses and sets it up.
func (s *Switch) configureInterface(h *netlink.Handle, name string, addr netip.Addr) error {
	for _, p := range s.addresses(addr) {
		if err := addAddress(h, name, p); err != nil {
			return err
		}
	}
	return setUp(h, name)
}

// RemoveHost deletes the host's cable and its pin. It returns nil if the host does not exist.
func (s *Switch) RemoveHost(host Host) error {
	err := s.inside(func(_ *netns.Namespace, h *netlink.Handle) error { return deleteLink(h, host.port()) })
	if errdefs.IsNotFound(err) {
		err = nil
	}
	return errors.Join(err, netns.Delete(s.NamespacePath(host.Name)))
}

// SetCable plugs the host's cable in or pulls it out. The host's interface keeps its address and
// loses the carrier.
func (s *Switch) SetCable(host Host, plugged bool) error {
	return s.inside(func(_ *netns.Namespace, h *netlink.Handle) error {
		link, err := h.LinkByName(host.port())
		if err != nil {
			return fmt.Errorf("cable of host %s: %w", host.Name, err)
		}
		if plugged {
			return h.LinkSetUp(link)
		}
		return h.LinkSetDown(link)
	})
}

func attachPort(h *netlink.Handle, port string) error {
	link, err := h.LinkByName(port)
	if err != nil {
		return fmt.Errorf("port %s: %w", port, err)
	}
	br, err := h.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if err := h.LinkSetMaster(link, br); err != nil {
		return fmt.Errorf("port %s: %w", port, err)
	}
	return h.LinkSetUp(link)
}

func setUp(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	return h.LinkSetUp(link)
}

func addAddress(h *netlink.Handle, name string, p netip.Prefix) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	a := &netlink.Addr{IPNet: hostnet.IPNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD // Skip duplicate address detection: the address is unique and must be usable at once.
	}
	if err := h.AddrAdd(link, a); err != nil {
		return fmt.Errorf("address %s on %s: %w", p, name, err)
	}
	return nil
}

func deleteLink(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if err := h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete interface %s: %w", name, err)
	}
	return nil
}
