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

// ensureDevice makes the VXLAN device, or brings the one that is there in line.
func (m *Mesh) ensureDevice(self Node) (netlink.Link, error) {
	mtu, err := m.mtu(self.Underlay)
	if err != nil {
		return nil, err
	}
	link, err := m.h.LinkByName(m.cfg.Device)
	if err == nil && !m.fits(link, self) {
		if err := m.h.LinkDel(link); err != nil {
			return nil, fmt.Errorf("remove the one of another making: %w", err)
		}
		err = netlink.LinkNotFoundError{}
	}
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = m.cfg.Device, mtu, self.mac()
		vxlan := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: m.cfg.VNI, SrcAddr: self.Underlay.AsSlice(), Port: m.cfg.Port}
		if err := m.h.LinkAdd(vxlan); err != nil {
			return nil, fmt.Errorf("the kernel needs VXLAN: %w", err)
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
	if err := errors.Join(m.setSysctls(), forwarding.Enable(m.here, m.h, link), m.address(link, self)); err != nil {
		return nil, err
	}
	if err := m.here.Do(m.passAtOnce); err != nil {
		m.log.Debug("packets between hosts are gathered twice", "device", m.cfg.Device, "err", err)
	}
	if err := m.h.LinkSetUp(link); err != nil {
		return nil, err
	}
	m.awaitAddresses(self)
	if forwarding.HasIPv6(m.here) {
		return link, hostnet.AnswerLoopback6(m.h, link.Attrs().Index)
	}
	return link, nil
}

// passAtOnce has the device pass on what it has taken out of VXLAN as it comes. The interface below has put segments together
// already, across VXLAN; to try it again costs each packet a turn of the scheduler's.
func (m *Mesh) passAtOnce() error {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return err
	}
	defer e.Close()
	return e.Change(m.cfg.Device, map[string]bool{"rx-gro": false})
}

func (m *Mesh) fits(link netlink.Link, self Node) bool {
	v, ok := link.(*netlink.Vxlan)
	if !ok || v.VxlanId != m.cfg.VNI || v.Port != m.cfg.Port || v.Learning || v.HardwareAddr.String() != self.mac().String() {
		return false
	}
	src, _ := netip.AddrFromSlice(v.SrcAddr)
	return src.Unmap() == self.Underlay
}

// mtu is what the underlay leaves: VXLAN adds 50 bytes, over IPv6 70.
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

// setSysctls: packets come in from clients to which this host has other routes, and from its own addresses when it asked
// another host; answers to its 127.0.0.1 come back this way.
func (m *Mesh) setSysctls() error {
	rp := "0"
	if all, err := m.here.Sysctl("ipv4/conf/all/rp_filter"); err != nil || all != "0" {
		rp = "2" // The larger of both counts: loose is the least.
	}
	conf := "ipv4/conf/" + m.cfg.Device + "/"
	values := map[string]string{
		conf + "rp_filter":        rp,
		conf + "accept_local":     "1",
		conf + "route_localnet":   "1",
		conf + "accept_redirects": "0",
		conf + "send_redirects":   "0",
	}
	if forwarding.HasIPv6(m.here) {
		conf = "ipv6/conf/" + m.cfg.Device + "/"
		values[conf+"disable_ipv6"] = "0"
		values[conf+"accept_ra"] = "0"
		values[conf+"accept_redirects"] = "0"
	}
	return m.here.SetSysctls(values)
}

func (m *Mesh) address(link netlink.Link, self Node) error {
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
		// No other host can have the address: it is ours at once.
		err := m.h.AddrReplace(link, &netlink.Addr{IPNet: hostnet.IPNet(p), Flags: unix.IFA_F_NODAD})
		if err != nil {
			errs = append(errs, fmt.Errorf("address %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// awaitAddresses returns when the host takes packets to its addresses for its own: the kernel gets there in the background, and
// a connection that is opened before goes astray for good. Being late is no error.
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

// usable leaves IPv6 out where the host has none.
func (m *Mesh) usable(all []netip.Prefix) []netip.Prefix {
	if forwarding.HasIPv6(m.here) {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(p netip.Prefix) bool { return p.Addr().Is6() })
}

// entries are what the kernel has to know of a peer: where its frames go (forwarding database), and which hardware address
// belongs to its addresses (neighbours). Nothing is learned or asked for on the wire.
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

// sameEntry: family, hardware address and address say all.
func sameEntry(a, b netlink.Neigh) bool {
	return a.Family == b.Family && a.IP.Equal(b.IP) && a.HardwareAddr.String() == b.HardwareAddr.String()
}

func (m *Mesh) found(link netlink.Link) ([]netlink.Neigh, error) {
	var out []netlink.Neigh
	for _, family := range []int{unix.AF_BRIDGE, unix.AF_INET, unix.AF_INET6} {
		entries, err := hostnet.Complete(func() ([]netlink.Neigh, error) { return m.h.NeighList(link.Attrs().Index, family) })
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		for _, e := range entries {
			// What the kernel keeps for itself: multicast, and entries that are only being tried.
			if e.LinkIndex == link.Attrs().Index && e.State&unix.NUD_PERMANENT != 0 && !net.IP(e.IP).IsMulticast() {
				e.Family = family
				out = append(out, e)
			}
		}
	}
	return out, nil
}

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

// removeDevice removes the device with its addresses, neighbours and routes, and the routing rules.
func (m *Mesh) removeDevice() error {
	if err := errors.Join(m.removeStrayRules(nil), m.accepts().Remove(&m.conn), nft.RemoveTable(&m.conn, zonesTable())); err != nil {
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
	return forwarding.Undo(m.here, m.h, link.Attrs().Alias)
}
