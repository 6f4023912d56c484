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
	// defaultInterface is what a task calls its end of the cable when it has no other.
	defaultInterface = "eth0"
	// cablePrefix begins the names of the host's ends, apartPrefix those of tasks that are apart: the rules tell them by it.
	cablePrefix = "swb-"
	apartPrefix = "swa-"
)

// plumbing is the bridge device with its cables, and the rules.
type plumbing struct {
	rules
	name string
	mtu  int
	here *netns.Namespace
	h    *netlink.Handle
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
	return &plumbing{rules: rules{bridge: cfg.BridgeName, log: log}, name: cfg.BridgeName, here: here, h: h}, nil
}

func (p *plumbing) close() error {
	p.h.Close()
	return errors.Join(p.here.Close(), p.conn.Close())
}

// openKernel gets the handles, and leaves the kernel as it is.
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

// ensureUp makes the network, or takes over the one that is there, with rules for
// these ports.
func (b *Bridge) ensureUp(published map[netip.Addr]use) error {
	if b.up {
		return nil
	}
	if err := b.openKernel(); err != nil {
		return err
	}
	b.net.subnet, b.net.subnet6, b.net.mtu = b.cfg.Subnet, b.cfg.Subnet6, b.cfg.MTU
	b.net.forbidden, b.net.guard = b.cfg.forbidden, b.cfg.guard
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

// takeDown removes the network.
func (b *Bridge) takeDown() error {
	if b.net == nil {
		return nil
	}
	if err := errors.Join(b.net.remove(), b.net.removeBridge()); err != nil {
		return fmt.Errorf("take down bridge %s: %w", b.cfg.BridgeName, err)
	}
	b.up = false
	return nil
}

// ensureBridge makes the device with its addresses and sysctls. One that is there
// already keeps its range: tasks live in it.
func (p *plumbing) ensureBridge() error {
	link, err := p.h.LinkByName(p.name)
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
		return err
	}
	if err == nil {
		found, ok := p.subnetOf(link, netlink.FAMILY_V4)
		found6, ok6 := p.subnetOf(link, netlink.FAMILY_V6)
		if ok && fits(p.subnet, found) && (!ok6 || fits(p.subnet6, found6)) {
			p.subnet, p.mtu, p.index = found, link.Attrs().MTU, link.Attrs().Index
			if err := p.chooseIPv6(found6); err != nil {
				return err
			}
			return p.setUp(link)
		}
		if err := p.h.LinkDel(link); err != nil {
			return fmt.Errorf("remove the one of another range: %w", err)
		}
	}
	if err := p.chooseRange(); err != nil {
		return err
	}
	return p.makeBridge()
}

func fits(wish, found netip.Prefix) bool { return !wish.IsValid() || wish.Masked() == found }

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

// setUp gives the device all that it has to have, there or not.
func (p *plumbing) setUp(link netlink.Link) error {
	if err := errors.Join(p.judgeAll(link), p.setSysctls(), forwarding.Enable(p.here, p.h, link)); err != nil {
		return err
	}
	gateway := netip.PrefixFrom(hostnet.Nth(p.subnet, 1), p.subnet.Bits())
	addresses := []netip.Prefix{gateway}
	if p.subnet6.IsValid() {
		addresses = append(addresses, netip.PrefixFrom(sixth(p.subnet6, gateway.Addr(), p.subnet), p.subnet6.Bits()))
	}
	for _, a := range addresses {
		if err := addAddress(p.h, link, a); err != nil {
			return err
		}
	}
	return errors.Join(p.h.LinkSetUp(link), p.loopback6())
}

// judgeAll has frames for 01:80:c2:00:00:0e pass the rules of the bridge, as those for its neighbours do: the kernel would
// learn from them, and take them in by the cable itself, before any rule.
func (p *plumbing) judgeAll(link netlink.Link) error {
	mask := uint16(1 << 0x0e)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = p.name, link.Attrs().Index
	if err := p.h.LinkModify(&netlink.Bridge{LinkAttrs: attrs, GroupFwdMask: &mask}); err != nil {
		return fmt.Errorf("frames for bridges: %w", err)
	}
	return nil
}

// addAddress makes the address usable at once: nobody else can have it.
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

// setSysctls: route_localnet is for clients on the host's 127.0.0.1; the rules
// keep tasks away from it.
func (p *plumbing) setSysctls() error {
	// The interface's name stands between slashes: it may have a dot in it.
	conf := "conf/" + p.name + "/"
	values := map[string]string{"ipv4/" + conf + "route_localnet": "1", "ipv4/" + conf + "rp_filter": "0"}
	if forwarding.HasIPv6(p.here) {
		values["ipv6/"+conf+"disable_ipv6"] = "0"
		values["ipv6/"+conf+"accept_ra"] = "0"
		// The host sends neighbour solicitations from the bridge's link-local address. Duplicate
		// address detection would keep that address unusable for up to two seconds after the first
		// task, and tasks would get "no route to host" from each other.
		values["ipv6/"+conf+"accept_dad"] = "0"
	}
	return p.here.SetSysctls(values)
}

// loopback6 is route_localnet for [::1]: the kernel takes an answer to it only by an interface that has a route of its own
// for it. From outside it drops [::1] before any rule.
func (p *plumbing) loopback6() error {
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
	return forwarding.Undo(p.here, p.h, link.Attrs().Alias)
}

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

// group marks the bridge and its cables, so that they can be found and deleted together.
func (p *plumbing) group() uint32 {
	sum := sha256.Sum256([]byte(p.name))
	return binary.BigEndian.Uint32(sum[:])>>1 | 1
}

// port names the host's end of a task's cable.
func port(t *attached) string {
	if t.Apart {
		return cable.PortName(apartPrefix, t.TaskID)
	}
	return cable.PortName(cablePrefix, t.TaskID)
}

// cable is a task's connection. The gateway is its only neighbour: the kernel counts the neighbours of all namespaces
// together, and a task that looked for many would leave none to the host.
func (p *plumbing) cable(t *attached) cable.Cable {
	r := t.Result
	c := cable.Cable{
		Port: port(t), Bridge: p.index, Group: p.group(), MTU: p.mtu,
		Interface: r.Interface, MAC: macOf(r.Address.Addr()), Addresses: []netip.Prefix{single(r.Address)}, Gateways: []netip.Addr{r.Gateway},
	}
	if r.Address6.IsValid() {
		c.Addresses, c.Gateways = append(c.Addresses, single(r.Address6)), append(c.Gateways, r.Gateway6)
	}
	return c
}

func single(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Addr(), p.Addr().BitLen()) }

// plug connects the task's namespace to the bridge.
func (p *plumbing) plug(t *attached) error {
	ns, err := netns.Open(t.Result.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	return p.cable(t).Plug(p.h, ns)
}

// plugged reports whether the task's cable is whole. One of an earlier build has no IPv6, and is left alone.
func (p *plumbing) plugged(t *attached) bool {
	c := p.cable(t)
	c.Addresses = c.Addresses[:1]
	return c.Whole(p.h, t.Result.Netns)
}

// unplug takes the task's cable off the bridge, of which of the names it is; it goes with the task's namespace.
func (p *plumbing) unplug(taskID string) error {
	return errors.Join(
		cable.Unplug(p.h, cable.PortName(cablePrefix, taskID)), cable.Unplug(p.h, cable.PortName(apartPrefix, taskID)))
}

// discard removes the task's cable at once.
func (p *plumbing) discard(taskID string) error {
	return errors.Join(
		cable.Delete(p.h, cable.PortName(cablePrefix, taskID)), cable.Delete(p.h, cable.PortName(apartPrefix, taskID)))
}

// removeStrayCables deletes the cables of tasks that are not in live.
func (p *plumbing) removeStrayCables(live map[string]*attached) error {
	keep := make(map[string]bool, len(live))
	for _, t := range live {
		keep[port(t)] = true
	}
	links, err := hostnet.Complete(func() ([]netlink.Link, error) { return p.h.LinkList() })
	if err != nil {
		return fmt.Errorf("list cables: %w", err)
	}
	var errs []error
	for _, l := range links {
		a := l.Attrs()
		ours := strings.HasPrefix(a.Name, cablePrefix) || strings.HasPrefix(a.Name, apartPrefix)
		if a.Group == p.group() && ours && !keep[a.Name] {
			errs = append(errs, cable.Delete(p.h, a.Name))
		}
	}
	return errors.Join(errs...)
}

// deleteGroup deletes the bridge and all cables in one request, which waits for the
// kernel only once.
func (p *plumbing) deleteGroup() error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(p.group())))
	var err error
	if enter := p.here.Do(func() error { _, err = req.Execute(unix.NETLINK_ROUTE, 0); return nil }); enter != nil {
		return enter
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete bridge and cables: %w", err)
	}
	return nil
}
