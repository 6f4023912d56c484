//go:build linux

package bridge

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

const (
	// containerInterface is what a task calls its end of the cable.
	containerInterface = "eth0"
	// cablePrefix begins the names of the host's ends.
	cablePrefix = "swb-"
	// forwardWasOff is the alias of a bridge with which forwarding was switched on:
	// the device itself remembers what to undo.
	forwardWasOff = "swarm bridge; ip_forward was 0"
	forwardWasOn  = "swarm bridge"
)

// containerSysctls let a process that is not root bind any port and ping: the
// namespace has no ports but the task's own.
var containerSysctls = map[string]string{
	"ipv4.ip_unprivileged_port_start": "0",
	"ipv4.ping_group_range":           "0 2147483647",
}

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

// cable names the host's end of a task's cable.
func cable(taskID string) string {
	sum := sha256.Sum256([]byte(taskID))
	return cablePrefix + hex.EncodeToString(sum[:5])
}

// plug connects the task's namespace to the bridge.
func (p *plumbing) plug(taskID string, r Result) error {
	ns, err := netns.Open(r.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := ns.SetSysctls(containerSysctls); err != nil {
		return err
	}
	inside, err := ns.Netlink()
	if err != nil {
		return err
	}
	defer inside.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = cable(taskID), p.mtu, p.index
	attrs.Group, attrs.Flags = p.group(), net.FlagUp
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = containerInterface, netlink.NsFd(ns.FD())
	veth.PeerMTU, veth.PeerHardwareAddr = uint32(p.mtu), macOf(r.Address.Addr())
	err = p.h.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		// One that its namespace has not yet taken with it.
		if err := p.deleteLink(cable(taskID)); err != nil {
			return err
		}
		err = p.h.LinkAdd(veth)
	}
	if err != nil {
		return fmt.Errorf("cable: %w", err)
	}
	if err := configure(inside, r); err != nil {
		return err
	}
	return awaitCarrier(inside, containerInterface, p.h, cable(taskID))
}

// awaitCarrier returns when both ends of a cable pass frames. The kernel notices
// the carrier in the background, and what is sent before that is lost: an ARP
// request is repeated after a second only. Asking for the link makes newer kernels
// look at once; older ones do it within milliseconds. A late one is no error.
func awaitCarrier(inside *netlink.Handle, eth string, host *netlink.Handle, port string) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range 50 {
		near, err := inside.LinkByName(eth)
		if err != nil {
			return fmt.Errorf("interface %s: %w", eth, err)
		}
		far, err := host.LinkByName(port)
		if err != nil {
			return fmt.Errorf("cable %s: %w", port, err)
		}
		if near.Attrs().OperState == netlink.OperUp && far.Attrs().OperState == netlink.OperUp {
			return nil
		}
		<-tick.C
	}
	return nil
}

// configure sets address and default route at the task's end.
func configure(inside *netlink.Handle, r Result) error {
	eth, err := inside.LinkByName(containerInterface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", containerInterface, err)
	}
	if err := inside.AddrAdd(eth, &netlink.Addr{IPNet: hostnet.IPNet(r.Address)}); err != nil {
		return fmt.Errorf("address %s: %w", r.Address, err)
	}
	if err := inside.LinkSetUp(eth); err != nil {
		return fmt.Errorf("interface %s: %w", containerInterface, err)
	}
	route := &netlink.Route{LinkIndex: eth.Attrs().Index, Gw: r.Gateway.AsSlice()}
	if err := inside.RouteAdd(route); err != nil {
		return fmt.Errorf("route by %s: %w", r.Gateway, err)
	}
	return nil
}

// plugged reports whether the task's cable is whole.
func (p *plumbing) plugged(taskID string, r Result) bool {
	link, err := p.h.LinkByName(cable(taskID))
	if err != nil || link.Attrs().MasterIndex != p.index || link.Attrs().OperState != netlink.OperUp {
		return false
	}
	ns, err := netns.Open(r.Netns)
	if err != nil {
		return false
	}
	defer ns.Close()
	inside, err := ns.Netlink()
	if err != nil {
		return false
	}
	defer inside.Close()
	eth, err := inside.LinkByName(containerInterface)
	if err != nil {
		return false
	}
	addrs, err := inside.AddrList(eth, netlink.FAMILY_V4)
	return err == nil && slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
		return a.IP.Equal(r.Address.Addr().AsSlice())
	})
}

// unplug takes the task's cable off the bridge. The cable goes with the namespace at
// its other end: deleting it here would wait for a grace period of the kernel (30 ms).
func (p *plumbing) unplug(taskID string) error {
	link, err := p.h.LinkByName(cable(taskID))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = errors.Join(p.h.LinkSetDown(link), p.h.LinkSetNoMaster(link))
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("cable of task %s: %w", taskID, err)
	}
	return nil
}

func (p *plumbing) deleteLink(name string) error {
	link, err := p.h.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = p.h.LinkDel(link)
	}
	// It may have gone with the namespace at its other end meanwhile.
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("cable %s: %w", name, err)
	}
	return nil
}

// removeStrayCables deletes the cables of tasks that are not in live.
func (p *plumbing) removeStrayCables(live map[string]*attached) error {
	keep := make(map[string]bool, len(live))
	for id := range live {
		keep[cable(id)] = true
	}
	links, err := p.h.LinkList()
	if err != nil {
		return fmt.Errorf("list cables: %w", err)
	}
	var errs []error
	for _, l := range links {
		a := l.Attrs()
		if a.Group == p.group() && strings.HasPrefix(a.Name, cablePrefix) && !keep[a.Name] {
			errs = append(errs, p.deleteLink(a.Name))
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
