//go:build linux

// Package cable connects containers to bridges. A cable is a veth pair: one end is a port of the
// bridge, the other is an interface in the container's network namespace.
//
// Two rules for cables live here. Both ends must pass frames before a container starts, and the
// removal of a cable must not wait for the kernel. The package keeps no state and starts no
// goroutines. Its callers are overlay/bridge and overlay/fabric.
package cable

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

// containerSysctls are the sysctls of a container's namespace. A process that is not root may bind
// any port, because all ports of the namespace belong to the task, and may send pings. An answer
// may leave through another interface than the one at which the request arrived, whatever the
// distribution's default is.
var containerSysctls = map[string]string{
	"ipv4.ip_unprivileged_port_start": "0",
	"ipv4.ping_group_range":           "0 2147483647",
	"ipv4.conf.all.rp_filter":         "0",
	"ipv4.conf.default.rp_filter":     "0",
	// An ICMP redirect would add a neighbour entry for an address behind the gateway.
	"ipv4.conf.all.accept_redirects":     "0",
	"ipv4.conf.default.accept_redirects": "0",
}

// Cable describes the connection of one container to one bridge.
type Cable struct {
	// Port is the name of the bridge's end, at most 15 characters.
	Port string
	// Bridge is the interface index of the bridge.
	Bridge int
	// Group is the link group of the port. One request can delete all ports of a group.
	Group uint32
	// MTU is the MTU of both ends in bytes.
	MTU int
	// Interface is the name of the container's end.
	Interface string
	// MAC is the hardware address of the container's end.
	MAC net.HardwareAddr
	// Addresses are the container's addresses. Each has the subnet in which the container reaches
	// other hosts without a gateway.
	Addresses []netip.Prefix
	// Gateways are the gateways of the default routes, at most one of each family. They can be
	// outside of the subnets in Addresses.
	Gateways []netip.Addr
}

// PortName derives the name of a task's port from the task ID. Each calling package uses its own
// prefix, of at most 5 characters.
func PortName(prefix, taskID string) string {
	sum := sha256.Sum256([]byte(taskID))
	return prefix + hex.EncodeToString(sum[:5])
}

// Plug creates the cable between the bridge, which is in the namespace of near, and the container's
// namespace. It returns when both ends pass frames, or after one second.
func (c Cable) Plug(near *netlink.Handle, container *netns.Namespace) error {
	if err := container.SetSysctls(containerSysctls); err != nil {
		return err
	}
	far, err := container.Netlink()
	if err != nil {
		return err
	}
	defer far.Close()
	if err := c.connect(near, container); err != nil {
		return fmt.Errorf("cable: %w", err)
	}
	if err := container.SetSysctls(c.ipv6Sysctls()); err != nil && (c.hasIPv6() || !errors.Is(err, os.ErrNotExist)) {
		return err
	}
	if err := c.configure(far); err != nil {
		return err
	}
	return c.await(near, far)
}

func (c Cable) connect(near *netlink.Handle, container *netns.Namespace) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = c.Port, c.MTU, c.Bridge
	attrs.Group, attrs.Flags = c.Group, net.FlagUp
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = c.Interface, netlink.NsFd(container.FD())
	veth.PeerMTU, veth.PeerHardwareAddr = uint32(c.MTU), c.MAC
	err := near.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		// The kernel has not deleted an earlier cable together with its namespace yet.
		if err := Delete(near, c.Port); err != nil {
			return err
		}
		err = near.LinkAdd(veth)
	}
	return err
}

func (c Cable) hasIPv6() bool {
	return slices.ContainsFunc(c.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

// ipv6Sysctls returns the IPv6 sysctls of the container's end. Duplicate address detection is off,
// because our addresses are unique. The interface generates no link-local address: such an address
// would let the container look for 2^64 neighbours. The kernel limits the number of neighbours of
// all namespaces together, so the host could not add any more.
func (c Cable) ipv6Sysctls() map[string]string {
	conf, disable := "ipv6/conf/"+c.Interface+"/", "1"
	if c.hasIPv6() {
		disable = "0"
	}
	return map[string]string{
		conf + "addr_gen_mode": "1", conf + "disable_ipv6": disable,
		conf + "accept_dad": "0", conf + "accept_ra": "0", conf + "accept_redirects": "0",
	}
}

// configure sets the addresses and the default routes at the container's end.
func (c Cable) configure(far *netlink.Handle) error {
	eth, err := far.LinkByName(c.Interface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", c.Interface, err)
	}
	for _, a := range c.Addresses {
		addr := &netlink.Addr{IPNet: hostnet.IPNet(a)}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := far.AddrAdd(eth, addr); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	if err := far.LinkSetUp(eth); err != nil {
		return fmt.Errorf("interface %s: %w", c.Interface, err)
	}
	for _, gw := range c.Gateways {
		link := eth.Attrs().Index
		to := &netlink.Route{LinkIndex: link, Dst: hostnet.IPNet(netip.PrefixFrom(gw, gw.BitLen())), Scope: netlink.SCOPE_LINK}
		if err := errors.Join(far.RouteAdd(to), far.RouteAdd(&netlink.Route{LinkIndex: link, Gw: gw.AsSlice()})); err != nil {
			return fmt.Errorf("route by %s: %w", gw, err)
		}
	}
	return nil
}

// readyTimeout limits the wait for a cable, in milliseconds. A timeout is not an error.
const readyTimeout = 1000

// await returns when both ends pass frames and the kernel treats the container's IPv6 addresses as
// local. The kernel does both in the background. A frame that is sent earlier is lost, and the
// container would repeat a lost ARP request only after one second. A request for the link makes
// newer kernels check the carrier at once; older kernels check it within milliseconds.
func (c Cable) await(near, far *netlink.Handle) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range readyTimeout {
		eth, err := far.LinkByName(c.Interface)
		if err != nil {
			return fmt.Errorf("interface %s: %w", c.Interface, err)
		}
		port, err := near.LinkByName(c.Port)
		if err != nil {
			return fmt.Errorf("cable %s: %w", c.Port, err)
		}
		if eth.Attrs().OperState == netlink.OperUp && port.Attrs().OperState == netlink.OperUp && c.addressed(far) {
			return nil
		}
		<-tick.C
	}
	return nil
}

// addressed reports whether the kernel treats the container's IPv6 addresses as local.
func (c Cable) addressed(far *netlink.Handle) bool {
	return !slices.ContainsFunc(c.Addresses, func(a netip.Prefix) bool {
		if !a.Addr().Is6() {
			return false
		}
		routes, err := far.RouteGet(a.Addr().AsSlice())
		return err != nil || len(routes) == 0 || routes[0].Type != unix.RTN_LOCAL
	})
}

// Complete reports whether both ends exist and are connected and the container's end has its
// addresses. container is the path of the namespace's pin.
func (c Cable) Complete(near *netlink.Handle, container string) bool {
	port, err := near.LinkByName(c.Port)
	if err != nil || port.Attrs().MasterIndex != c.Bridge || port.Attrs().OperState != netlink.OperUp {
		return false
	}
	ns, err := netns.Open(container)
	if err != nil {
		return false
	}
	defer ns.Close()
	far, err := ns.Netlink()
	if err != nil {
		return false
	}
	defer far.Close()
	eth, err := far.LinkByName(c.Interface)
	if err != nil {
		return false
	}
	addrs, err := hostnet.Complete(func() ([]netlink.Addr, error) { return far.AddrList(eth, netlink.FAMILY_ALL) })
	return err == nil && !slices.ContainsFunc(c.Addresses, func(want netip.Prefix) bool {
		return !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(want.Addr().AsSlice()) })
	})
}

// Unplug removes a port from its bridge. The kernel deletes the cable when the container's
// namespace ends. Deleting it here would wait for a grace period of the kernel (30 ms). Unplug
// returns nil if the port does not exist.
func Unplug(near *netlink.Handle, port string) error {
	link, err := near.LinkByName(port)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = errors.Join(near.LinkSetDown(link), near.LinkSetNoMaster(link))
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("unplug cable %s: %w", port, err)
	}
	return nil
}

// Delete deletes a cable at once. It returns nil if the cable does not exist.
func Delete(near *netlink.Handle, port string) error {
	link, err := near.LinkByName(port)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = near.LinkDel(link)
	}
	// The kernel may have deleted it with the container's namespace meanwhile.
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete cable %s: %w", port, err)
	}
	return nil
}
