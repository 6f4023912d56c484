//go:build linux

package mesh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/forwarding"
	"swarm/overlay/hostnet"
	"swarm/overlay/nft"
)

// ensureDevice creates the VXLAN device, or changes an existing one so that it matches.
func (m *Mesh) ensureDevice(self Node) (netlink.Link, error) {
	mtu, err := m.mtu(self.Underlay)
	if err != nil {
		return nil, err
	}
	link, err := m.h.LinkByName(m.cfg.Device)
	if err == nil && !m.matches(link, self) {
		if err := m.h.LinkDel(link); err != nil {
			return nil, fmt.Errorf("remove the device with other properties: %w", err)
		}
		err = netlink.LinkNotFoundError{}
	}
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = m.cfg.Device, mtu, self.mac()
		vxlan := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: m.cfg.VNI, SrcAddr: self.Underlay.AsSlice(), Port: m.cfg.Port}
		if err := m.h.LinkAdd(vxlan); err != nil {
			return nil, fmt.Errorf("create the VXLAN device (the kernel needs VXLAN): %w", err)
		}
		link, err = m.h.LinkByName(m.cfg.Device)
	}
	if err != nil {
		return nil, err
	}
	if index := link.Attrs().Index; m.rules.mtu != mtu || m.rules.index != index {
		m.rules.mtu, m.rules.index, m.rules.written = mtu, index, false
	}
	if link.Attrs().MTU != mtu {
		if err := m.h.LinkSetMTU(link, mtu); err != nil {
			return nil, fmt.Errorf("mtu %d: %w", mtu, err)
		}
	}
	if err := errors.Join(m.setSysctls(), forwarding.Enable(m.hostNS, m.h, link), m.syncAddresses(link, self)); err != nil {
		return nil, err
	}
	if err := m.hostNS.Do(m.disableGRO); err != nil {
		m.log.Debug("cannot turn off GRO: requests between hosts take about 2 % longer", "device", m.cfg.Device, "err", err)
	}
	if err := m.h.LinkSetUp(link); err != nil {
		return nil, err
	}
	m.awaitAddresses(self)
	if forwarding.HasIPv6(m.hostNS) {
		return link, hostnet.AnswerLoopback6(m.h, link.Attrs().Index)
	}
	return link, nil
}

// disableGRO turns off generic receive offload at the device. The interface below already merges
// segments inside of VXLAN packets. A second attempt would delay each packet by one run of the
// scheduler.
func (m *Mesh) disableGRO() error {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return err
	}
	defer e.Close()
	return e.Change(m.cfg.Device, map[string]bool{"rx-gro": false})
}

// matches reports whether the device has the wanted VNI, port, addresses and learning. The kernel
// cannot change these properties of a device, so ensureDevice replaces a device without them.
func (m *Mesh) matches(link netlink.Link, self Node) bool {
	v, ok := link.(*netlink.Vxlan)
	if !ok || v.VxlanId != m.cfg.VNI || v.Port != m.cfg.Port || v.Learning || v.HardwareAddr.String() != self.mac().String() {
		return false
	}
	src, _ := netip.AddrFromSlice(v.SrcAddr)
	return src.Unmap() == self.Underlay
}

// mtu returns the MTU of the device: the MTU of the underlay minus the headers of VXLAN, which have
// 50 bytes over IPv4 and 70 bytes over IPv6.
func (m *Mesh) mtu(underlay netip.Addr) (int, error) {
	addrs, err := hostnet.Complete(func() ([]netlink.Addr, error) { return m.h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return 0, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range addrs {
		if !a.IP.Equal(underlay.AsSlice()) {
			continue
		}
		link, err := m.h.LinkByIndex(a.LinkIndex)
		if err != nil {
			return 0, err
		}
		if underlay.Is6() {
			return link.Attrs().MTU - 70, nil
		}
		return link.Attrs().MTU - 50, nil
	}
	return 0, fmt.Errorf("this host has no interface with the data path address %s", underlay)
}

// setSysctls sets the sysctls of the device. Packets from clients arrive here although this host
// has other routes to them (rp_filter). Packets from its own addresses arrive if a local program
// connects through another host (accept_local). Answers to its 127.0.0.1 arrive here too
// (route_localnet).
func (m *Mesh) setSysctls() error {
	rp := "0"
	if all, err := m.hostNS.Sysctl("ipv4/conf/all/rp_filter"); err != nil || all != "0" {
		rp = "2" // The kernel uses the larger value of `all` and the device. 2 is loose.
	}
	conf := "ipv4/conf/" + m.cfg.Device + "/"
	values := map[string]string{
		conf + "rp_filter":        rp,
		conf + "accept_local":     "1",
		conf + "route_localnet":   "1",
		conf + "accept_redirects": "0",
		conf + "send_redirects":   "0",
	}
	if forwarding.HasIPv6(m.hostNS) {
		conf = "ipv6/conf/" + m.cfg.Device + "/"
		values[conf+"disable_ipv6"] = "0"
		values[conf+"accept_ra"] = "0"
		values[conf+"accept_redirects"] = "0"
	}
	return m.hostNS.SetSysctls(values)
}

// syncAddresses makes the addresses of the device match those of the node.
func (m *Mesh) syncAddresses(link netlink.Link, self Node) error {
	found, err := hostnet.Complete(func() ([]netlink.Addr, error) { return m.h.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	var errs []error
	for _, a := range found {
		if !a.IP.IsLinkLocalUnicast() && !slices.ContainsFunc(self.Mesh, func(p netip.Prefix) bool { return hostnet.IPNet(p).String() == a.IPNet.String() }) {
			errs = append(errs, m.h.AddrDel(link, &a))
		}
	}
	for _, p := range m.usable(self.Mesh) {
		// Skip duplicate address detection, because no other host can have the address.
		err := m.h.AddrReplace(link, &netlink.Addr{IPNet: hostnet.IPNet(p), Flags: unix.IFA_F_NODAD})
		if err != nil {
			errs = append(errs, fmt.Errorf("address %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// awaitAddresses waits up to 200 ms until the kernel treats the addresses as local, which it does
// in the background. A connection that is opened earlier is never redirected. A timeout is not an
// error.
func (m *Mesh) awaitAddresses(self Node) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 200 {
		if !slices.ContainsFunc(m.usable(self.Mesh), func(p netip.Prefix) bool {
			routes, err := m.h.RouteGet(p.Addr().AsSlice())
			return err == nil && len(routes) > 0 && routes[0].Type != unix.RTN_LOCAL
		}) {
			return
		}
		<-tick.C
	}
}

// usable returns the addresses without IPv6 if the host has no IPv6.
func (m *Mesh) usable(all []netip.Prefix) []netip.Prefix {
	if forwarding.HasIPv6(m.hostNS) {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(p netip.Prefix) bool { return p.Addr().Is6() })
}

// entries returns the kernel entries of the peers: the host to which frames for a peer go
// (forwarding database), and the hardware address of each mesh address (neighbours). So the device
// neither learns nor sends ARP requests.
func (m *Mesh) entries(link netlink.Link, peers []Node) []netlink.Neigh {
	var out []netlink.Neigh
	for _, p := range peers {
		out = append(out, netlink.Neigh{
			LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, State: unix.NUD_PERMANENT | unix.NUD_NOARP, Flags: unix.NTF_SELF,
			IP: p.Underlay.AsSlice(), HardwareAddr: p.mac(),
		})
		for _, a := range m.usable(p.Mesh) {
			family := unix.AF_INET
			if a.Addr().Is6() {
				family = unix.AF_INET6
			}
			out = append(out, netlink.Neigh{
				LinkIndex: link.Attrs().Index, Family: family, State: unix.NUD_PERMANENT, IP: a.Addr().AsSlice(), HardwareAddr: p.mac(),
			})
		}
	}
	return out
}

// sameEntry compares family, IP address and hardware address.
func sameEntry(a, b netlink.Neigh) bool {
	return a.Family == b.Family && a.IP.Equal(b.IP) && a.HardwareAddr.String() == b.HardwareAddr.String()
}

// found returns the static entries of the device in the kernel.
func (m *Mesh) found(link netlink.Link) ([]netlink.Neigh, error) {
	var out []netlink.Neigh
	for _, family := range []int{unix.AF_BRIDGE, unix.AF_INET, unix.AF_INET6} {
		entries, err := hostnet.Complete(func() ([]netlink.Neigh, error) { return m.h.NeighList(link.Attrs().Index, family) })
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		for _, e := range entries {
			// Skip the kernel's own entries: multicast addresses and entries that are being
			// resolved.
			if e.LinkIndex == link.Attrs().Index && e.State&unix.NUD_PERMANENT != 0 && !net.IP(e.IP).IsMulticast() {
				e.Family = family
				out = append(out, e)
			}
		}
	}
	return out, nil
}

// addPeers adds the entries of the peers that are missing.
func (m *Mesh) addPeers(link netlink.Link, peers []Node) error {
	found, err := m.found(link)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range m.entries(link, peers) {
		if !slices.ContainsFunc(found, func(f netlink.Neigh) bool { return sameEntry(f, e) }) {
			if err := m.h.NeighSet(&e); err != nil {
				errs = append(errs, fmt.Errorf("neighbour %s: %w", e.IP, err))
			}
		}
	}
	return errors.Join(errs...)
}

// removeStrayPeers deletes the entries of all nodes that are not in peers.
func (m *Mesh) removeStrayPeers(peers []Node) error {
	link, err := m.h.LinkByName(m.cfg.Device)
	if err != nil {
		return fmt.Errorf("device %s: %w", m.cfg.Device, err)
	}
	found, err := m.found(link)
	if err != nil {
		return err
	}
	wanted := m.entries(link, peers)
	var errs []error
	for _, f := range found {
		if slices.ContainsFunc(wanted, func(w netlink.Neigh) bool { return sameEntry(f, w) }) {
			continue
		}
		if f.Family == unix.AF_BRIDGE {
			f.Flags = unix.NTF_SELF
		}
		if err := m.h.NeighDel(&f); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("neighbour %s: %w", f.IP, err))
		}
	}
	return errors.Join(errs...)
}

// removeDevice removes the routing rules, the accept rules, the zones table, and the device with
// its addresses, neighbours and routes.
func (m *Mesh) removeDevice() error {
	if err := errors.Join(m.removeStrayRules(nil), m.accepts().Remove(&m.rules.conn), nft.RemoveTable(&m.rules.conn, zonesTable())); err != nil {
		return err
	}
	link, err := m.h.LinkByName(m.cfg.Device)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("device %s: %w", m.cfg.Device, err)
	}
	if err := m.h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete device %s: %w", m.cfg.Device, err)
	}
	return forwarding.Undo(m.hostNS, m.h, link.Attrs().Alias)
}
