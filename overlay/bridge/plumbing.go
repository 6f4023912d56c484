//go:build linux

package bridge

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"swarm/overlay/cable"
	"swarm/overlay/forwarding"
	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

const (
	// defaultInterface is the name of the task's end of the cable if Attachment.Interface is empty.
	defaultInterface = "eth0"
	// cablePrefix begins the names of the host's ends of the cables, and isolatedPrefix those of
	// isolated tasks. The rules match these prefixes.
	cablePrefix    = "swb-"
	isolatedPrefix = "swa-"
)

// plumbing is the bridge device with its cables, and the rules. The embedded rules have the subnets
// and the interface index of the bridge, and the nftables connection.
type plumbing struct {
	rules
	name   string
	mtu    int
	hostNS *netns.Namespace
	h      *netlink.Handle
}

func openPlumbing(cfg Config, log *slog.Logger) (*plumbing, error) {
	here, err := netns.Current()
	if err != nil {
		return nil, err
	}
	h, err := here.Netlink()
	if err != nil {
		here.Close()
		return nil, err
	}
	return &plumbing{rules: rules{bridge: cfg.BridgeName, log: log}, name: cfg.BridgeName, hostNS: here, h: h}, nil
}

func (p *plumbing) close() error {
	p.h.Close()
	return errors.Join(p.hostNS.Close(), p.conn.Close())
}

// openKernel opens the netlink handles. It does not change the kernel.
func (b *Bridge) openKernel() error {
	if b.net != nil {
		return nil
	}
	p, err := openPlumbing(b.cfg, b.log)
	if err != nil {
		return fmt.Errorf("bridge network: %w", err)
	}
	b.net = p
	return nil
}

// ensureUp creates the device and the rules, or takes over those of an earlier process. The rules
// contain the tasks in published.
func (b *Bridge) ensureUp(published map[netip.Addr]taskRules) error {
	if b.up {
		return nil
	}
	if err := b.openKernel(); err != nil {
		return err
	}
	b.net.subnet, b.net.subnet6, b.net.mtu = b.cfg.Subnet, b.cfg.Subnet6, b.cfg.MTU
	b.net.blockedUDPPort, b.net.blocked = b.cfg.blockedUDPPort, b.cfg.blocked
	if err := b.net.ensureBridge(); err != nil {
		return fmt.Errorf("bridge %s: %w", b.cfg.BridgeName, err)
	}
	if b.addresses == nil || b.addresses.subnet != b.net.subnet {
		b.addresses = newPool(b.net.subnet)
	}
	if err := b.net.sync(published); err != nil {
		return err
	}
	b.net.accepts().Ensure(&b.net.conn, b.log)
	b.up = true
	return nil
}

// takeDown removes the rules, the device and the cables.
func (b *Bridge) takeDown() error {
	if b.net == nil {
		return nil
	}
	if err := errors.Join(b.net.removeRules(), b.net.removeBridge()); err != nil {
		return fmt.Errorf("take down bridge %s: %w", b.cfg.BridgeName, err)
	}
	b.up = false
	return nil
}

// ensureBridge creates the device with its addresses and sysctls. A device that exists keeps its
// subnets, because tasks use them, unless the configuration asks for others.
func (p *plumbing) ensureBridge() error {
	link, err := p.h.LinkByName(p.name)
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
		return err
	}
	if err == nil {
		found, ok := p.subnetOf(link, netlink.FAMILY_V4)
		found6, ok6 := p.subnetOf(link, netlink.FAMILY_V6)
		if ok && matches(p.subnet, found) && (!ok6 || matches(p.subnet6, found6)) {
			p.subnet, p.mtu, p.index = found, link.Attrs().MTU, link.Attrs().Index
			if err := p.chooseIPv6(found6); err != nil {
				return err
			}
			return p.setUp(link)
		}
		if err := p.h.LinkDel(link); err != nil {
			return fmt.Errorf("remove the device with another subnet: %w", err)
		}
	}
	if err := p.chooseRange(); err != nil {
		return err
	}
	return p.makeBridge()
}

// matches reports whether the found subnet is the configured one, or none is configured.
func matches(wish, found netip.Prefix) bool { return !wish.IsValid() || wish.Masked() == found }

func (p *plumbing) makeBridge() error {
	gateway := netip.PrefixFrom(hostnet.Nth(p.subnet, 1), p.subnet.Bits())
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr, attrs.Group = p.name, p.mtu, macOf(gateway.Addr()), p.group()
	br := &netlink.Bridge{LinkAttrs: attrs}
	if err := p.h.LinkAdd(br); err != nil {
		return err
	}
	link, err := p.h.LinkByName(p.name)
	if err != nil {
		return err
	}
	p.index = link.Attrs().Index
	return p.setUp(link)
}

// setUp sets the sysctls, the addresses and the state of the device. It may be called again.
func (p *plumbing) setUp(link netlink.Link) error {
	if err := errors.Join(p.filterReservedMulticast(link), p.setSysctls(), forwarding.Enable(p.hostNS, p.h, link)); err != nil {
		return err
	}
	gateway := netip.PrefixFrom(hostnet.Nth(p.subnet, 1), p.subnet.Bits())
	addresses := []netip.Prefix{gateway}
	if p.subnet6.IsValid() {
		addresses = append(addresses, netip.PrefixFrom(ipv6Of(p.subnet6, gateway.Addr(), p.subnet), p.subnet6.Bits()))
	}
	for _, a := range addresses {
		if err := addAddress(p.h, link, a); err != nil {
			return err
		}
	}
	return errors.Join(p.h.LinkSetUp(link), p.routeLoopback6())
}

// filterReservedMulticast makes frames for 01:80:c2:00:00:0e pass the rules of the bridge, as
// frames for the other reserved multicast addresses do. By default the bridge learns from these
// frames, and the host receives them on the cable itself, before any rule.
func (p *plumbing) filterReservedMulticast(link netlink.Link) error {
	mask := uint16(1 << 0x0e)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = p.name, link.Attrs().Index
	if err := p.h.LinkModify(&netlink.Bridge{LinkAttrs: attrs, GroupFwdMask: &mask}); err != nil {
		return fmt.Errorf("set group_fwd_mask: %w", err)
	}
	return nil
}

// addAddress adds an address without duplicate address detection, because no other host can have
// it.
func addAddress(h *netlink.Handle, link netlink.Link, a netip.Prefix) error {
	addr := &netlink.Addr{IPNet: hostnet.IPNet(a)}
	if a.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := h.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("address %s: %w", a, err)
	}
	return nil
}

// setSysctls sets the sysctls of the bridge. route_localnet lets clients at the host's 127.0.0.1
// use published ports; the rules stop tasks from reaching 127.0.0.0/8.
func (p *plumbing) setSysctls() error {
	// The separators are slashes, because the interface's name may contain a dot.
	conf := "conf/" + p.name + "/"
	values := map[string]string{"ipv4/" + conf + "route_localnet": "1", "ipv4/" + conf + "rp_filter": "0"}
	if forwarding.HasIPv6(p.hostNS) {
		values["ipv6/"+conf+"disable_ipv6"] = "0"
		values["ipv6/"+conf+"accept_ra"] = "0"
		// The host sends neighbour solicitations from the bridge's link-local address. Duplicate
		// address detection would keep that address unusable for up to two seconds after the first
		// task, and tasks would get "no route to host" from each other.
		values["ipv6/"+conf+"accept_dad"] = "0"
	}
	return p.hostNS.SetSysctls(values)
}

// routeLoopback6 does for [::1] what route_localnet does for 127.0.0.1. The kernel accepts an
// answer to [::1] only from an interface with its own local route for [::1]. It drops packets to
// [::1] that come from outside before any rule.
func (p *plumbing) routeLoopback6() error {
	if !p.subnet6.IsValid() {
		return nil
	}
	return hostnet.AnswerLoopback6(p.h, p.index)
}

func (p *plumbing) removeBridge() error {
	link, err := p.h.LinkByName(p.name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := p.deleteGroup(); err != nil {
		return err
	}
	return forwarding.Undo(p.hostNS, p.h, link.Attrs().Alias)
}

// subnetOf returns the subnet of the first address of the device that is not link-local.
func (p *plumbing) subnetOf(link netlink.Link, family int) (netip.Prefix, bool) {
	addrs, err := hostnet.Complete(func() ([]netlink.Addr, error) { return p.h.AddrList(link, family) })
	if err != nil {
		return netip.Prefix{}, false
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		if ok && !ip.IsLinkLocalUnicast() {
			return netip.PrefixFrom(ip.Unmap(), ones).Masked(), true
		}
	}
	return netip.Prefix{}, false
}

// group returns the link group of the bridge and its cables. One request can delete the whole
// group.
func (p *plumbing) group() uint32 {
	sum := sha256.Sum256([]byte(p.name))
	return binary.BigEndian.Uint32(sum[:])>>1 | 1
}

// portName returns the name of the host's end of a task's cable.
func portName(t *attached) string {
	if t.PortIsolated {
		return cable.PortName(isolatedPrefix, t.TaskID)
	}
	return cable.PortName(cablePrefix, t.TaskID)
}

// cable describes the cable of a task. The addresses have no subnet, so that the gateway is the
// task's only neighbour. The kernel limits the number of neighbours of all namespaces together: a
// task that looked for many neighbours would leave none for the host.
func (p *plumbing) cable(t *attached) cable.Cable {
	r := t.Result
	c := cable.Cable{
		Port: portName(t), Bridge: p.index, Group: p.group(), MTU: p.mtu,
		Interface: r.Interface, MAC: macOf(r.Address.Addr()), Addresses: []netip.Prefix{hostPrefix(r.Address)}, Gateways: []netip.Addr{r.Gateway},
	}
	if r.Address6.IsValid() {
		c.Addresses, c.Gateways = append(c.Addresses, hostPrefix(r.Address6)), append(c.Gateways, r.Gateway6)
	}
	return c
}

// hostPrefix returns the /32 or /128 prefix of the address.
func hostPrefix(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Addr(), p.Addr().BitLen()) }

// plug connects the task's namespace to the bridge.
func (p *plumbing) plug(t *attached) error {
	ns, err := netns.Open(t.Result.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	return p.cable(t).Plug(p.h, ns)
}

// plugged reports whether the task's cable is complete. It ignores IPv6, because a cable that an
// earlier version created has no IPv6 address and must remain.
func (p *plumbing) plugged(t *attached) bool {
	c := p.cable(t)
	c.Addresses = c.Addresses[:1]
	return c.Complete(p.h, t.Result.Netns)
}

// unplug takes the task's cable off the bridge. The name of the cable tells whether the task is
// isolated, so unplug tries both names. The kernel deletes the cable with the task's namespace.
func (p *plumbing) unplug(taskID string) error {
	return errors.Join(
		cable.Unplug(p.h, cable.PortName(cablePrefix, taskID)), cable.Unplug(p.h, cable.PortName(isolatedPrefix, taskID)))
}

// discard deletes the task's cable at once.
func (p *plumbing) discard(taskID string) error {
	return errors.Join(
		cable.Delete(p.h, cable.PortName(cablePrefix, taskID)), cable.Delete(p.h, cable.PortName(isolatedPrefix, taskID)))
}

// removeStrayCables deletes the cables of tasks that are not in live.
func (p *plumbing) removeStrayCables(live map[string]*attached) error {
	keep := make(map[string]bool, len(live))
	for _, t := range live {
		keep[portName(t)] = true
	}
	links, err := hostnet.Complete(func() ([]netlink.Link, error) { return p.h.LinkList() })
	if err != nil {
		return fmt.Errorf("list cables: %w", err)
	}
	var errs []error
	for _, l := range links {
		a := l.Attrs()
		ours := strings.HasPrefix(a.Name, cablePrefix) || strings.HasPrefix(a.Name, isolatedPrefix)
		if a.Group == p.group() && ours && !keep[a.Name] {
			errs = append(errs, cable.Delete(p.h, a.Name))
		}
	}
	return errors.Join(errs...)
}

// deleteGroup deletes the bridge and all cables in one request, because the kernel makes each
// deletion wait for a grace period.
func (p *plumbing) deleteGroup() error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(p.group())))
	var err error
	if enter := p.hostNS.Do(func() error { _, err = req.Execute(unix.NETLINK_ROUTE, 0); return nil }); enter != nil {
		return enter
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete bridge and cables: %w", err)
	}
	return nil
}
