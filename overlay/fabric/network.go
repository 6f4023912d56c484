//go:build linux

package fabric

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"swarm/overlay/cable"
	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
	"swarm/overlay/vxlan"
)

const (
	bridgeName = "bridge"
	vxlanName  = "vxlan"
	portPrefix = "swo-"
	// group marks all devices of a network, to be deleted in one request.
	group = 0x7377
)

// network is one of them on this host.
type network struct {
	Network
	ns      *netns.Namespace
	h       *netlink.Handle
	entries *vxlan.Entries
	bridge  int
	// legs by task.
	legs map[string]Leg
	// has is what the kernel holds for other hosts; nil when that is to be read first.
	has *vxlan.Table
	// wanted are the tasks on other hosts; nil before the first word of them.
	wanted *members
	// settled: the kernel has what is wanted, without the addresses in here, which are local tasks'.
	settled bool
	here    []netip.Addr
}

func (f *Fabric) openHost() error {
	if f.host != nil {
		return nil
	}
	ns, err := netns.Current()
	if err != nil {
		return err
	}
	h, err := ns.Netlink()
	if err != nil {
		return errors.Join(err, ns.Close())
	}
	f.host = &host{ns: ns, h: h}
	return nil
}

func (f *Fabric) pin(networkID string) string { return filepath.Join(f.cfg.PinDir, networkID) }

// pinned lists the networks that there are.
func (f *Fabric) pinned() ([]string, error) {
	entries, err := os.ReadDir(f.cfg.PinDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list overlay networks: %w", err)
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}

// networkSysctls: the namespace switches and never routes, filters or has addresses,
// whatever the distribution's defaults are.
var networkSysctls = map[string]string{
	"ipv4/ip_forward":                "0",
	"ipv4/conf/all/rp_filter":        "0",
	"ipv4/conf/default/rp_filter":    "0",
	"ipv6/conf/all/forwarding":       "0",
	"ipv6/conf/all/disable_ipv6":     "1",
	"ipv6/conf/default/disable_ipv6": "1",
}

// deviceSysctls: only a device with IPv6 takes entries for IPv6 neighbours. Nor has it an address.
var deviceSysctls = map[string]string{
	"ipv6/conf/" + vxlanName + "/accept_ra":     "0",
	"ipv6/conf/" + vxlanName + "/addr_gen_mode": "1",
	"ipv6/conf/" + vxlanName + "/disable_ipv6":  "0",
}

// filterSysctls are absent where the kernel's bridge filter is not loaded, which is as good.
var filterSysctls = map[string]string{
	"bridge/bridge-nf-call-iptables":  "0",
	"bridge/bridge-nf-call-ip6tables": "0",
	"bridge/bridge-nf-call-arptables": "0",
}

// raise makes the network's namespace and devices, or takes over and mends those that are there.
func (f *Fabric) raise(ctx context.Context, want Network) (*network, error) {
	u, err := f.underlay()
	if err != nil {
		return nil, err
	}
	want.MTU = cmp.Or(min(want.MTU, u.mtu), f.cfg.MTU, u.mtu) // What is larger gets nowhere.
	pin := f.pin(want.ID)
	if !netns.Pinned(pin) {
		if err := netns.Create(pin); err != nil {
			return nil, err
		}
	}
	n := &network{Network: want, legs: make(map[string]Leg)}
	if err := n.open(ctx, f, pin, u.local); err != nil {
		return nil, errors.Join(err, f.raze(want.ID, n))
	}
	return n, nil
}

func (n *network) open(ctx context.Context, f *Fabric, pin string, local netip.Addr) error {
	var err error
	if n.ns, err = netns.Open(pin); err != nil {
		return err
	}
	if n.h, err = n.ns.Netlink(); err != nil {
		return err
	}
	if err := n.ns.SetSysctls(networkSysctls); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := n.ns.SetSysctls(filterSysctls); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := n.ensureBridge(); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	spec := vxlan.Spec{
		Name: vxlanName, VNI: n.VNI, Port: f.cfg.Port, Local: local, MTU: n.MTU, Group: group,
	}
	index, err := n.ensureVXLAN(ctx, f.host.h, spec)
	if err != nil {
		return err
	}
	n.entries, err = vxlan.Open(n.ns, index, true)
	return err
}

// underlay is what the host's own network decides.
type underlay struct {
	// local is the source of our packets: our address if an interface has it. Others may reach the host
	// by one that only a router before it knows.
	local netip.Addr
	// mtu is what is left for a network.
	mtu int
}

// Room is how large a packet of a network may be for what leads to the other hosts now, in bytes. Networks keep what they
// were made with.
func (f *Fabric) Room() (int, error) {
	u, err := f.underlay()
	return u.mtu, err
}

func (f *Fabric) underlay() (underlay, error) {
	u := underlay{local: netip.IPv4Unspecified()}
	overhead := vxlan.OverheadIPv4
	if f.cfg.Underlay.Is6() {
		u.local, overhead = netip.IPv6Unspecified(), vxlan.OverheadIPv6
	}
	addrs, err := hostnet.Complete(func() ([]netlink.Addr, error) { return f.host.h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return u, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range addrs {
		if !a.IP.Equal(f.cfg.Underlay.AsSlice()) {
			continue
		}
		u.local = f.cfg.Underlay
		link, err := f.host.h.LinkByIndex(a.LinkIndex)
		if err != nil {
			return u, fmt.Errorf("interface of %s: %w", f.cfg.Underlay, err)
		}
		// The loopback's MTU says nothing about the way to others.
		if link.Attrs().Flags&net.FlagLoopback == 0 {
			u.mtu = link.Attrs().MTU - overhead
			return u, nil
		}
	}
	mtu, err := hostnet.WayOutMTU(f.host.h)
	u.mtu = mtu - overhead
	return u, err
}

func (n *network) ensureBridge() error {
	link, err := n.h.LinkByName(bridgeName)
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
		return err
	}
	if err != nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.Group = bridgeName, n.MTU, group
		snooping := false
		if err := n.h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
			return err
		}
		if link, err = n.h.LinkByName(bridgeName); err != nil {
			return err
		}
	}
	// One that is there keeps its MTU: tasks have theirs from it.
	n.bridge, n.MTU = link.Attrs().Index, link.Attrs().MTU
	return n.h.LinkSetUp(link)
}

// ensureVXLAN replaces a device that is not as it should be: its entries are written again
// with the next Sync, and the tasks' connections live through that.
func (n *network) ensureVXLAN(ctx context.Context, underlay *netlink.Handle, spec vxlan.Spec) (int, error) {
	link, err := n.h.LinkByName(vxlanName)
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
		return 0, err
	}
	if err == nil && !spec.Is(link) {
		if err := n.h.LinkDel(link); err != nil {
			return 0, fmt.Errorf("remove a vxlan device with other settings: %w", err)
		}
		link = nil
	}
	if err != nil || link == nil {
		if err := vxlan.Make(ctx, underlay, n.ns, spec); err != nil {
			return 0, err
		}
		if link, err = n.h.LinkByName(vxlanName); err != nil {
			return 0, err
		}
	}
	if link.Attrs().MasterIndex != n.bridge {
		if err := n.h.LinkSetMasterByIndex(link, n.bridge); err != nil {
			return 0, fmt.Errorf("vxlan device to bridge: %w", err)
		}
	}
	if err := n.ns.SetSysctls(deviceSysctls); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	if err := errors.Join(n.quiet(link.Attrs().Index), n.h.LinkSetUp(link)); err != nil {
		return 0, fmt.Errorf("vxlan device: %w", err)
	}
	return link.Attrs().Index, nil
}

// quiet switches learning off at a port of the bridge, and flooding of what is not known:
// a task can neither take another's address nor listen to what is sent to nobody.
func (n *network) quiet(port int) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(port)
	req.AddData(msg)
	settings := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	settings.AddRtAttr(nl.IFLA_BRPORT_LEARNING, []byte{0})
	settings.AddRtAttr(nl.IFLA_BRPORT_UNICAST_FLOOD, []byte{0})
	req.AddData(settings)
	return n.execute(req)
}

// execute sends a request that the library has no call for.
func (n *network) execute(req *nl.NetlinkRequest) error {
	var err error
	enter := n.ns.Do(func() error {
		_, err = req.Execute(unix.NETLINK_ROUTE, 0)
		return nil
	})
	return errors.Join(enter, err)
}

func (n *network) cable(l Leg) cable.Cable {
	mac := vxlan.MACOf(l.Addresses[0].Addr())
	return cable.Cable{
		Port: cable.PortName(portPrefix, l.TaskID), Bridge: n.bridge, Group: group, MTU: n.MTU,
		Interface: l.Interface, MAC: mac[:], Addresses: l.Addresses,
	}
}

// plug connects a leg, unless it is whole.
func (n *network) plug(l Leg) error {
	c := n.cable(l)
	if !c.Complete(n.h, l.Netns) {
		if err := cable.Delete(n.h, c.Port); err != nil {
			return err
		}
		ns, err := netns.Open(l.Netns)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := c.Plug(n.h, ns); err != nil {
			return err
		}
	}
	port, err := n.h.LinkByName(c.Port)
	if err != nil {
		return err
	}
	if err := errors.Join(n.quiet(port.Attrs().Index), n.entries.Pin(port.Attrs().Index, vxlan.MAC(c.MAC))); err != nil {
		return err
	}
	n.legs[l.TaskID] = l
	return n.refresh()
}

func (n *network) unplug(taskID string) error {
	delete(n.legs, taskID)
	if n.h == nil {
		return nil
	}
	return cable.Unplug(n.h, cable.PortName(portPrefix, taskID))
}

// write brings the entries for other hosts to what is wanted.
func (n *network) write(wanted *members) error {
	n.wanted, n.settled = wanted, false
	return n.refresh()
}

// amend is write when what is wanted has changed for some members only.
func (n *network) amend(about []Endpoint) error {
	// An address that is here and elsewhere is rare, and not for long.
	if !n.settled || len(n.here) > 0 || len(n.local()) > 0 {
		return n.write(n.wanted)
	}
	had, want := part(*n.has, about), part(n.wanted.table, about)
	if err := n.entries.Write(had, want); err != nil {
		n.has, n.settled = nil, false
		return err
	}
	replace(*n.has, about, want)
	return nil
}

// refresh writes the difference between what the kernel has and what is wanted of it, the
// tasks of this host left out. Before the first Sync nothing is known, and all stays.
func (n *network) refresh() error {
	if n.wanted == nil {
		return nil
	}
	here := n.local()
	if n.settled && slices.Equal(here, n.here) {
		return nil
	}
	n.settled = false
	if n.has == nil {
		t, err := n.entries.Read()
		if err != nil {
			return err
		}
		n.has = &t
	}
	want := n.without(here)
	if err := n.entries.Write(*n.has, want); err != nil {
		n.has = nil
		return err
	}
	n.has, n.here, n.settled = &want, here, true
	return nil
}

// local lists the addresses that are sought elsewhere and are attached here, in order.
func (n *network) local() []netip.Addr {
	var here []netip.Addr
	for _, l := range n.legs {
		for _, a := range l.Addresses {
			if _, ok := n.wanted.table.Neighbours[a.Addr()]; ok {
				here = append(here, a.Addr())
			}
		}
	}
	slices.SortFunc(here, netip.Addr.Compare)
	return here
}

// without is a copy of what is wanted, some addresses left out.
func (n *network) without(here []netip.Addr) vxlan.Table {
	t := vxlan.Table{Forward: maps.Clone(n.wanted.table.Forward), Neighbours: maps.Clone(n.wanted.table.Neighbours)}
	for _, a := range here {
		delete(t.Forward, t.Neighbours[a])
		delete(t.Neighbours, a)
	}
	return t
}

// removeStrays deletes the cables of tasks that are not on the network.
func (n *network) removeStrays() error {
	keep := make(map[string]bool, len(n.legs))
	for id := range n.legs {
		keep[cable.PortName(portPrefix, id)] = true
	}
	links, err := hostnet.Complete(n.h.LinkList)
	if err != nil {
		return fmt.Errorf("list cables: %w", err)
	}
	var errs []error
	for _, l := range links {
		if name := l.Attrs().Name; strings.HasPrefix(name, portPrefix) && !keep[name] {
			errs = append(errs, cable.Delete(n.h, name))
		}
	}
	return errors.Join(errs...)
}

func (n *network) close() error {
	var errs []error
	if n.entries != nil {
		errs = append(errs, n.entries.Close())
	}
	if n.h != nil {
		n.h.Close()
	}
	if n.ns != nil {
		errs = append(errs, n.ns.Close())
	}
	n.entries, n.h, n.ns = nil, nil, nil
	return errors.Join(errs...)
}

// raze removes a network with all that is on it; n is nil for one of an earlier process. The
// devices go first and at once: the network identifier must be free for the next, while a
// namespace may take its time to die.
func (f *Fabric) raze(networkID string, n *network) error {
	pin := f.pin(networkID)
	if n == nil {
		n = &network{}
	}
	if n.ns == nil && netns.Pinned(pin) {
		var err error
		if n.ns, err = netns.Open(pin); err != nil {
			return err
		}
	}
	var errs []error
	if n.ns != nil {
		req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
		if err := n.execute(req); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("remove the devices of network %s: %w", networkID, err))
		}
	}
	return errors.Join(append(errs, n.close(), netns.Delete(pin))...)
}
