//go:build linux

// Package cable connects containers to bridges: a veth pair, one end a port of
// the bridge, the other an interface in the container's network namespace.
//
// It owns the shape of a cable and the lessons of plugging one: both ends must
// carry before a container starts, and taking one out must not wait for the
// kernel. It keeps nothing. Callers: overlay/bridge, overlay/fabric. No goroutines.
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

// containerSysctls let a process that is not root bind any port and ping: the
// namespace has no ports but the task's own. Answers may leave by another
// interface than questions came in at, whatever the distribution's default is.
var containerSysctls = map[string]string{
	"ipv4.ip_unprivileged_port_start": "0",
	"ipv4.ping_group_range":           "0 2147483647",
	"ipv4.conf.all.rp_filter":         "0",
	"ipv4.conf.default.rp_filter":     "0",
	// A redirect would make a neighbour of an address that lies behind the gateway.
	"ipv4.conf.all.accept_redirects":     "0",
	"ipv4.conf.default.accept_redirects": "0",
}

// Cable is one connection.
type Cable struct {
	// Port names the bridge's end, at most 15 characters.
	Port string
	// Bridge is the index of the bridge device.
	Bridge int
	// Group marks the port, so that all of a bridge can be deleted in one request.
	Group uint32
	MTU   int
	// Interface names the container's end.
	Interface string
	MAC       net.HardwareAddr
	// Addresses with the ranges in which the container looks for neighbours by itself.
	Addresses []netip.Prefix
	// Gateways of the default routes, at most one of each family. They need not lie in those ranges.
	Gateways []netip.Addr
}

// PortName derives the name of a task's port; prefix tells the makers apart.
func PortName(prefix, taskID string) string {
	sum := sha256.Sum256([]byte(taskID))
	return prefix + hex.EncodeToString(sum[:5])
}

// Plug makes the cable from the bridge, in the namespace of near, into the container's
// namespace, and returns when both ends pass frames.
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
		// One that its namespace has not yet taken with it.
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

// ipv6Sysctls: an address of ours is unique and usable at once; the interface makes no addresses
// of its own. A link-local one would make neighbours of 2^64 others: the kernel counts the
// neighbours of all network namespaces together, and gives a host none beyond its threshold.
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

// configure sets addresses and default route at the container's end.
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

// patience bounds the wait for a cable, in milliseconds. A late one is no error.
const patience = 1000

// await returns when both ends of a cable pass frames and the container knows its addresses. The kernel notices
// the carrier in the background, and what is sent before that is lost: an ARP request is repeated after a second
// only. Asking for the link makes newer kernels look at once; older ones do it within milliseconds. That an IPv6
// address is its own the kernel notices in the background too.
func (c Cable) await(near, far *netlink.Handle) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range patience {
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

// addressed tells whether what is sent to the IPv6 addresses stays in the container.
func (c Cable) addressed(far *netlink.Handle) bool {
	return !slices.ContainsFunc(c.Addresses, func(a netip.Prefix) bool {
		if !a.Addr().Is6() {
			return false
		}
		routes, err := far.RouteGet(a.Addr().AsSlice())
		return err != nil || len(routes) == 0 || routes[0].Type != unix.RTN_LOCAL
	})
}

// Whole reports whether the cable is plugged at both ends and has its addresses.
func (c Cable) Whole(near *netlink.Handle, container string) bool {
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

// Unplug takes a port off its bridge. The cable goes with the namespace at its other
// end: deleting it here would wait for a grace period of the kernel (30 ms).
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

// Delete removes a cable at once.
func Delete(near *netlink.Handle, port string) error {
	link, err := near.LinkByName(port)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = near.LinkDel(link)
	}
	// It may have gone with the namespace at its other end meanwhile.
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("cable %s: %w", port, err)
	}
	return nil
}
