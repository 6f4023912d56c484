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
	// group is the link group of all devices of a network, so that one request can delete them.
	group = 0x7377
)

// network is one overlay network on this host.
type network struct {
	Network
	ns      *netns.Namespace
	h       *netlink.Handle
	entries *vxlan.Entries
	bridge  int // interface index of the bridge
	// attachments are the attachments of the tasks of this host, by task.
	attachments map[string]Attachment
	// kernel has the entries for other hosts that are in the kernel. It is nil if this process has
	// not read them yet, or if a write has failed.
	kernel *vxlan.Table
	// remote has the tasks on other hosts. It is nil until the caller has set them; the entries in
	// the kernel stay as they are until then.
	remote *remoteTasks
	// programmed says that the kernel has the entries of remote, except those for the addresses in
	// local. local has the addresses that a remote task and an attached task of this host both
	// have: frames to them stay on this host.
	programmed bool
	local      []netip.Addr
}

// openHost opens the namespace of the underlay, unless it is open. The caller holds sem.
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

// pin returns the path of the namespace of a network.
func (f *Fabric) pin(networkID string) string { return filepath.Join(f.cfg.PinDir, networkID) }

// pinned returns the ids of the networks that have a namespace.
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

// networkSysctls are set in the namespace of a network, because the defaults differ between
// distributions. The namespace only switches frames: it does not route or filter, and has no
// addresses.
var networkSysctls = map[string]string{
	"ipv4/ip_forward":                "0",
	"ipv4/conf/all/rp_filter":        "0",
	"ipv4/conf/default/rp_filter":    "0",
	"ipv6/conf/all/forwarding":       "0",
	"ipv6/conf/all/disable_ipv6":     "1",
	"ipv6/conf/default/disable_ipv6": "1",
}

// deviceSysctls are set for the VXLAN device. Only a device with IPv6 accepts entries for IPv6
// neighbours. It has no address.
var deviceSysctls = map[string]string{
	"ipv6/conf/" + vxlanName + "/accept_ra":     "0",
	"ipv6/conf/" + vxlanName + "/addr_gen_mode": "1",
	"ipv6/conf/" + vxlanName + "/disable_ipv6":  "0",
}

// filterSysctls turn off br_netfilter, which would pass the frames of the bridge through the rules
// of iptables. They do not exist if the kernel has not loaded br_netfilter.
var filterSysctls = map[string]string{
	"bridge/bridge-nf-call-iptables":  "0",
	"bridge/bridge-nf-call-ip6tables": "0",
	"bridge/bridge-nf-call-arptables": "0",
}

// open creates the namespace and the devices of a network, or takes over and repairs those that
// exist.
func (f *Fabric) open(ctx context.Context, want Network) (*network, error) {
	u, err := f.readUnderlay()
	if err != nil {
		return nil, err
	}
	if want.MTU == 0 {
		want.MTU = cmp.Or(f.cfg.MTU, u.mtu)
	} else {
		want.MTU = min(want.MTU, u.mtu)
	}
	pin := f.pin(want.ID)
	if !netns.Pinned(pin) {
		if err := netns.Create(pin); err != nil {
			return nil, err
		}
	}
	n := &network{Network: want, attachments: make(map[string]Attachment)}
	if err := n.open(ctx, f, pin, u.local); err != nil {
		return nil, errors.Join(err, f.remove(want.ID, n))
	}
	return n, nil
}

// open opens the namespace and repairs what is in it.
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
		return fmt.Errorf("create the bridge: %w", err)
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

// underlay describes the network of the host below the overlay networks.
type underlay struct {
	// local is the source address of VXLAN packets: Config.Underlay if an interface has it, else
	// the unspecified address. Behind NAT no interface of this host has Config.Underlay.
	local netip.Addr
	// mtu is the MTU of the underlay minus the headers of VXLAN.
	mtu int
}

// MaxMTU returns the greatest MTU that a new network can have at present, in bytes. A network that
// exists keeps the MTU with which it was created.
func (f *Fabric) MaxMTU(ctx context.Context) (int, error) {
	release, err := f.acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	if err := f.openHost(); err != nil {
		return 0, err
	}
	u, err := f.readUnderlay()
	return u.mtu, err
}

// readUnderlay reads the state of the underlay. The caller holds sem and has called openHost.
func (f *Fabric) readUnderlay() (underlay, error) {
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
			return u, fmt.Errorf("find the interface of the underlay address %s: %w", f.cfg.Underlay, err)
		}
		// The MTU of the loopback interface says nothing about the path to other hosts.
		if link.Attrs().Flags&net.FlagLoopback == 0 {
			u.mtu = link.Attrs().MTU - overhead
			return u, nil
		}
	}
	mtu, err := hostnet.WayOutMTU(f.host.h)
	u.mtu = mtu - overhead
	return u, err
}

// ensureBridge creates the bridge if it does not exist.
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
	// A bridge that exists keeps its MTU, because the interfaces of its tasks have the same.
	n.bridge, n.MTU = link.Attrs().Index, link.Attrs().MTU
	return n.h.LinkSetUp(link)
}

// ensureVXLAN creates the VXLAN device, or replaces a device that has other settings. A new device
// has no entries until the next Sync. The tasks' connections survive the replacement.
func (n *network) ensureVXLAN(ctx context.Context, host *netlink.Handle, spec vxlan.Spec) (int, error) {
	link, err := n.h.LinkByName(vxlanName)
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
		return 0, err
	}
	if err == nil && !spec.Is(link) {
		if err := n.h.LinkDel(link); err != nil {
			return 0, fmt.Errorf("remove the vxlan device with other settings: %w", err)
		}
		link = nil
	}
	if err != nil || link == nil {
		if err := vxlan.Make(ctx, host, n.ns, spec); err != nil {
			return 0, err
		}
		if link, err = n.h.LinkByName(vxlanName); err != nil {
			return 0, err
		}
	}
	if link.Attrs().MasterIndex != n.bridge {
		if err := n.h.LinkSetMasterByIndex(link, n.bridge); err != nil {
			return 0, fmt.Errorf("attach the vxlan device to the bridge: %w", err)
		}
	}
	if err := n.ns.SetSysctls(deviceSysctls); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	if err := errors.Join(n.disableLearning(link.Attrs().Index), n.h.LinkSetUp(link)); err != nil {
		return 0, fmt.Errorf("set up the vxlan device: %w", err)
	}
	return link.Attrs().Index, nil
}

// disableLearning turns off learning and the flooding of unknown unicast frames at a port of the
// bridge. Without learning, a task cannot take the address of another. Without flooding, it does
// not receive frames to unknown addresses.
func (n *network) disableLearning(port int) error {
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

// execute sends a netlink request for which the library has no function.
func (n *network) execute(req *nl.NetlinkRequest) error {
	var err error
	enter := n.ns.Do(func() error {
		_, err = req.Execute(unix.NETLINK_ROUTE, 0)
		return nil
	})
	return errors.Join(enter, err)
}

// cable describes the cable of an attachment.
func (n *network) cable(a Attachment) cable.Cable {
	mac := vxlan.MACOf(a.Addresses[0].Addr())
	return cable.Cable{
		Port: cable.PortName(portPrefix, a.TaskID), Bridge: n.bridge, Group: group, MTU: n.MTU,
		Interface: a.Interface, MAC: mac[:], Addresses: a.Addresses,
	}
}

// attach connects a task, unless its cable is complete.
func (n *network) attach(a Attachment) error {
	c := n.cable(a)
	if !c.Complete(n.h, a.Netns) {
		if err := cable.Delete(n.h, c.Port); err != nil {
			return err
		}
		ns, err := netns.Open(a.Netns)
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
	if err := errors.Join(n.disableLearning(port.Attrs().Index), n.entries.Pin(port.Attrs().Index, vxlan.MAC(c.MAC))); err != nil {
		return err
	}
	n.attachments[a.TaskID] = a
	return n.writeEntries()
}

// detach disconnects a task.
func (n *network) detach(taskID string) error {
	delete(n.attachments, taskID)
	if n.h == nil {
		return nil
	}
	return cable.Unplug(n.h, cable.PortName(portPrefix, taskID))
}

// setRemote sets the tasks on other hosts and writes their entries.
func (n *network) setRemote(m *remoteTasks) error {
	n.remote, n.programmed = m, false
	return n.writeEntries()
}

// updateRemote writes the entries of remote after a change of some endpoints.
func (n *network) updateRemote(changed []Endpoint) error {
	// If tasks on two hosts have the same address, write all entries. This is rare, and ends when
	// one of the tasks ends.
	if !n.programmed || len(n.local) > 0 || len(n.sharedAddrs()) > 0 {
		return n.setRemote(n.remote)
	}
	had, want := subset(*n.kernel, changed), subset(n.remote.table, changed)
	if err := n.entries.Write(had, want); err != nil {
		n.kernel, n.programmed = nil, false
		return err
	}
	replace(*n.kernel, changed, want)
	return nil
}

// writeEntries writes the difference between the entries in the kernel and those of remote, without
// the addresses of tasks on this host. Before the first Sync it changes nothing.
func (n *network) writeEntries() error {
	if n.remote == nil {
		return nil
	}
	local := n.sharedAddrs()
	if n.programmed && slices.Equal(local, n.local) {
		return nil
	}
	n.programmed = false
	if n.kernel == nil {
		t, err := n.entries.Read()
		if err != nil {
			return err
		}
		n.kernel = &t
	}
	want := n.remoteWithout(local)
	if err := n.entries.Write(*n.kernel, want); err != nil {
		n.kernel = nil
		return err
	}
	n.kernel, n.local, n.programmed = &want, local, true
	return nil
}

// sharedAddrs returns the addresses of tasks on this host that tasks in remote have too, sorted.
func (n *network) sharedAddrs() []netip.Addr {
	var shared []netip.Addr
	for _, l := range n.attachments {
		for _, a := range l.Addresses {
			if _, ok := n.remote.table.Neighbours[a.Addr()]; ok {
				shared = append(shared, a.Addr())
			}
		}
	}
	slices.SortFunc(shared, netip.Addr.Compare)
	return shared
}

// remoteWithout returns the entries of remote without some addresses.
func (n *network) remoteWithout(addrs []netip.Addr) vxlan.Table {
	t := vxlan.Table{Forward: maps.Clone(n.remote.table.Forward), Neighbours: maps.Clone(n.remote.table.Neighbours)}
	for _, a := range addrs {
		delete(t.Forward, t.Neighbours[a])
		delete(t.Neighbours, a)
	}
	return t
}

// removeUnusedCables deletes the cables of tasks that are not attached.
func (n *network) removeUnusedCables() error {
	keep := make(map[string]bool, len(n.attachments))
	for id := range n.attachments {
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

// close closes the handles of the network.
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

// remove removes a network with everything in it. n is nil if this process has not opened the
// network. The devices are deleted first and in one request, because the VNI must be free for the
// next network, and the kernel may take a while to delete a namespace.
func (f *Fabric) remove(networkID string, n *network) error {
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
