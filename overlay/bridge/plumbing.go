//go:build linux

package bridge

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"swarm/overlay/cable"
	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

const (
	// containerInterface is what a task calls its end of the cable, unless told otherwise.
	containerInterface = "eth0"
	// cablePrefix begins the names of the host's ends.
	cablePrefix = "swb-"
	// forwardWasOff is the alias of a bridge with which forwarding was switched on:
	// the device itself remembers what to undo.
	forwardWasOff = "swarm bridge; ip_forward was 0"
	forwardWasOn  = "swarm bridge"
)

// plumbing is the bridge device with its cables, and the rules.
type plumbing struct {
	rules
	name   string
	mtu    int
	subnet netip.Prefix
	index  int
	here   *netns.Namespace
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
	return &plumbing{rules: rules{bridge: cfg.BridgeName, log: log}, name: cfg.BridgeName, mtu: cfg.MTU, subnet: cfg.Subnet, here: here, h: h}, nil
}

func (p *plumbing) close() error {
	p.h.Close()
	return errors.Join(p.here.Close(), p.hangUp())
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
func (b *Bridge) ensureUp(published map[netip.Addr][]Port) error {
	if b.up {
		return nil
	}
	if err := b.openKernel(); err != nil {
		return err
	}
	b.net.subnet, b.net.mtu = b.cfg.Subnet, b.cfg.MTU
	if err := b.net.ensureBridge(); err != nil {
		return fmt.Errorf("bridge %s: %w", b.cfg.BridgeName, err)
	}
	if b.addresses == nil || b.addresses.subnet != b.net.subnet {
		b.addresses = newPool(b.net.subnet)
	}
	b.net.rules.subnet = b.net.subnet
	if err := b.net.sync(published); err != nil {
		return err
	}
	b.net.acceptForwarding()
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

// ensureBridge makes the device with its address and sysctls. One that is there
// already keeps its range: tasks live in it.
func (p *plumbing) ensureBridge() error {
	link, err := p.h.LinkByName(p.name)
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
		return err
	}
	if err == nil {
		if found, ok := p.subnetOf(link); ok && (!p.subnet.IsValid() || p.subnet.Masked() == found) {
			p.subnet, p.mtu, p.index = found, link.Attrs().MTU, link.Attrs().Index
			return errors.Join(p.h.LinkSetUp(link), p.setSysctls())
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

func (p *plumbing) makeBridge() error {
	forward, err := p.here.Sysctl("ipv4.ip_forward")
	if err != nil {
		return err
	}
	gateway := netip.PrefixFrom(hostnet.Nth(p.subnet, 1), p.subnet.Bits())
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr, attrs.Group = p.name, p.mtu, macOf(gateway.Addr()), p.group()
	br := &netlink.Bridge{LinkAttrs: attrs}
	if err := p.h.LinkAdd(br); err != nil {
		return err
	}
	alias := forwardWasOn
	if forward == "0" {
		alias = forwardWasOff
	}
	link, err := p.h.LinkByName(p.name)
	if err != nil {
		return err
	}
	p.index = link.Attrs().Index
	return errors.Join(
		p.h.LinkSetAlias(link, alias),
		p.h.AddrAdd(link, &netlink.Addr{IPNet: hostnet.IPNet(gateway)}),
		p.h.LinkSetUp(link),
		p.setSysctls(),
	)
}

// setSysctls: route_localnet is for clients on the host's 127.0.0.1; the rules
// keep tasks away from it.
func (p *plumbing) setSysctls() error {
	// The interface's name stands between slashes: it may have a dot in it.
	conf := "ipv4/conf/" + p.name + "/"
	return p.here.SetSysctls(map[string]string{
		"ipv4/ip_forward":       "1",
		conf + "route_localnet": "1",
		conf + "rp_filter":      "0",
	})
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
	if link.Attrs().Alias != forwardWasOff {
		return nil
	}
	// Somebody else's bridge may rely on forwarding by now.
	links, err := p.h.LinkList()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Type() == "bridge" }) {
		return nil
	}
	return p.here.SetSysctls(map[string]string{"ipv4/ip_forward": "0"})
}

func (p *plumbing) subnetOf(link netlink.Link) (netip.Prefix, bool) {
	addrs, err := p.h.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addrs) == 0 {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(addrs[0].IP.To4())
	ones, _ := addrs[0].Mask.Size()
	return netip.PrefixFrom(ip, ones).Masked(), ok
}

// chooseRange settles subnet and MTU by what the host has.
func (p *plumbing) chooseRange() error {
	used, err := hostnet.Used(p.h)
	if err != nil {
		return err
	}
	if p.mtu == 0 {
		if p.mtu, err = hostnet.WayOutMTU(p.h); err != nil {
			return err
		}
	}
	if !p.subnet.IsValid() {
		p.subnet, err = hostnet.Choose(used, privateRanges())
		return err
	}
	p.subnet = p.subnet.Masked()
	if taken, ok := hostnet.Conflict(used, p.subnet); ok {
		return fmt.Errorf("subnet %s overlaps %s, which this host routes: name another", p.subnet, taken)
	}
	return nil
}

// privateRanges begins with the default and goes through what Docker and clouds
// use less often.
func privateRanges() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for _, first := range []byte{30, 31, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16} {
			if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{172, first, 0, 0}), 16)) {
				return
			}
		}
		for n := 240; n >= 0; n -= 16 {
			if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(n), 0}), 20)) {
				return
			}
		}
	}
}

// group marks the bridge and its cables, so that they can be found and deleted together.
func (p *plumbing) group() uint32 {
	sum := sha256.Sum256([]byte(p.name))
	return binary.BigEndian.Uint32(sum[:])>>1 | 1
}

// cable is a task's connection.
func (p *plumbing) cable(taskID string, r Result) cable.Cable {
	return cable.Cable{
		Port: cable.PortName(cablePrefix, taskID), Bridge: p.index, Group: p.group(), MTU: p.mtu,
		Interface: r.Interface, MAC: macOf(r.Address.Addr()), Addresses: []netip.Prefix{r.Address}, Gateway: r.Gateway,
	}
}

// plug connects the task's namespace to the bridge.
func (p *plumbing) plug(taskID string, r Result) error {
	ns, err := netns.Open(r.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	return p.cable(taskID, r).Plug(p.h, ns)
}

// plugged reports whether the task's cable is whole.
func (p *plumbing) plugged(taskID string, r Result) bool {
	return p.cable(taskID, r).Whole(p.h, r.Netns)
}

// unplug takes the task's cable off the bridge; it goes with the task's namespace.
func (p *plumbing) unplug(taskID string) error {
	return cable.Unplug(p.h, cable.PortName(cablePrefix, taskID))
}

// removeStrayCables deletes the cables of tasks that are not in live.
func (p *plumbing) removeStrayCables(live map[string]*attached) error {
	keep := make(map[string]bool, len(live))
	for id := range live {
		keep[cable.PortName(cablePrefix, id)] = true
	}
	links, err := p.h.LinkList()
	if err != nil {
		return fmt.Errorf("list cables: %w", err)
	}
	var errs []error
	for _, l := range links {
		a := l.Attrs()
		if a.Group == p.group() && strings.HasPrefix(a.Name, cablePrefix) && !keep[a.Name] {
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
