//go:build linux

package cable

import (
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"

	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

// bench is a host with a bridge at 10.0.1.1 and fd00:1::1, and a container without interfaces.
type bench struct {
	*testing.T
	host, container *netns.Namespace
	near            *netlink.Handle
	pin             string // of the container
	bridge          int
}

func newBench(t *testing.T) bench {
	t.Helper()
	b := bench{T: t, pin: filepath.Join(t.TempDir(), "container")}
	b.host, b.container = b.namespace(filepath.Join(t.TempDir(), "host")), b.namespace(b.pin)
	near, err := b.host.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(near.Close)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags = "br0", net.FlagUp
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := near.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"10.0.1.1/24", "fd00:1::1/64"} {
		if err := near.AddrAdd(bridge, &netlink.Addr{IPNet: hostnet.IPNet(netip.MustParsePrefix(a)), Flags: 0x02}); err != nil {
			t.Fatal(err)
		}
	}
	b.near, b.bridge = near, bridge.Index
	return b
}

func (b bench) namespace(pin string) *netns.Namespace {
	b.Helper()
	if err := netns.Create(pin); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := netns.Delete(pin); err != nil {
			b.Error(err)
		}
	})
	ns, err := netns.Open(pin)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ns.Close() })
	return ns
}

func (b bench) cable() Cable {
	return Cable{
		Port: PortName("swt", "task1"), Bridge: b.bridge, Group: 7, MTU: 1400, Interface: "eth0", MAC: net.HardwareAddr{2, 66, 10, 0, 1, 2},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.2/24"), netip.MustParsePrefix("fd00:1::2/64")},
		Gateways:  []netip.Addr{netip.MustParseAddr("10.0.1.1"), netip.MustParseAddr("fd00:1::1")},
	}
}

func (b bench) plug(c Cable) {
	b.Helper()
	if err := c.Plug(b.near, b.container); err != nil {
		b.Fatal(err)
	}
}

func (b bench) has(port string) bool {
	_, err := b.near.LinkByName(port)
	return err == nil
}

// echoes listens at an address of the container, and reports whether the host reaches it at once.
func (b bench) echoes(network, address string) bool {
	b.Helper()
	var listener net.Listener
	if err := b.container.Do(func() (err error) { listener, err = net.Listen(network, address); return err }); err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	return b.host.Do(func() error {
		conn, err := net.Dial(network, address)
		if err == nil {
			conn.Close()
		}
		return err
	}) == nil
}

// Frames pass as soon as Plug returns, in both families. A port below 1024 needs no capability.
func TestPlug_PassesFrames(t *testing.T) {
	b := newBench(t)
	c := b.cable()
	b.plug(c)
	if !b.echoes("tcp4", "10.0.1.2:80") || !b.echoes("tcp6", "[fd00:1::2]:80") {
		t.Error("the host does not reach the container")
	}
	port, err := b.near.LinkByName(c.Port)
	if err != nil {
		t.Fatal(err)
	}
	if a := port.Attrs(); a.MTU != 1400 || a.Group != 7 || a.MasterIndex != b.bridge {
		t.Errorf("port: %+v", a)
	}
	if !c.Complete(b.near, b.pin) {
		t.Error("Complete is false for a cable that was just plugged")
	}
	for key, want := range map[string]string{
		"ipv4/ip_unprivileged_port_start": "0", "ipv4/conf/all/rp_filter": "0", "ipv6/conf/eth0/accept_ra": "0", "ipv6/conf/eth0/accept_dad": "0",
	} {
		if got, err := b.container.Sysctl(key); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", key, got, err, want)
		}
	}
}

// A container without an IPv6 address has no IPv6 at that interface.
func TestPlug_IPv4Only(t *testing.T) {
	b := newBench(t)
	c := b.cable()
	c.Addresses, c.Gateways = c.Addresses[:1], c.Gateways[:1]
	b.plug(c)
	if got, err := b.container.Sysctl("ipv6/conf/eth0/disable_ipv6"); err != nil || got != "1" {
		t.Errorf("disable_ipv6: got %s, %v, want 1", got, err)
	}
	if !b.echoes("tcp4", "10.0.1.2:80") {
		t.Error("the host does not reach the container")
	}
}

// The cable of an earlier container with the same task may still be there.
func TestPlug_ReplacesACable(t *testing.T) {
	b := newBench(t)
	b.plug(b.cable())
	other := b
	other.pin = filepath.Join(t.TempDir(), "next")
	other.container = b.namespace(other.pin)
	other.plug(b.cable())
	if !b.cable().Complete(b.near, other.pin) || b.cable().Complete(b.near, b.pin) {
		t.Error("the cable does not lead to the new container alone")
	}
}

func TestComplete_FindsWhatIsMissing(t *testing.T) {
	for name, damage := range map[string]func(bench, Cable) error{
		"the port is not on the bridge": func(b bench, c Cable) error { return Unplug(b.near, c.Port) },
		"the cable is gone":             func(b bench, c Cable) error { return Delete(b.near, c.Port) },
		"an address is gone": func(b bench, c Cable) error {
			return b.container.Do(func() error {
				eth, err := netlink.LinkByName(c.Interface)
				if err != nil {
					return err
				}
				return netlink.AddrDel(eth, &netlink.Addr{IPNet: hostnet.IPNet(c.Addresses[0])})
			})
		},
		"the namespace is gone": func(b bench, _ Cable) error { return netns.Delete(b.pin) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			c := b.cable()
			b.plug(c)
			if err := damage(b, c); err != nil {
				t.Fatal(err)
			}
			if c.Complete(b.near, b.pin) {
				t.Error("Complete is true")
			}
		})
	}
}

// Unplug leaves the cable to the kernel, which deletes it with the container's namespace. Delete
// does not. Both are no error when there is no cable.
func TestUnplugAndDelete(t *testing.T) {
	b := newBench(t)
	c := b.cable()
	b.plug(c)
	if err := Unplug(b.near, c.Port); err != nil || !b.has(c.Port) {
		t.Errorf("unplug: %v, the port exists: %v, want true", err, b.has(c.Port))
	}
	if b.echoes("tcp4", "10.0.1.2:80") {
		t.Error("the host reaches a container that is unplugged")
	}
	if err := Delete(b.near, c.Port); err != nil || b.has(c.Port) {
		t.Errorf("delete: %v, the port exists: %v, want false", err, b.has(c.Port))
	}
	for name, remove := range map[string]func(*netlink.Handle, string) error{"Unplug": Unplug, "Delete": Delete} {
		if err := remove(b.near, c.Port); err != nil {
			t.Errorf("%s of a cable that is gone: %v", name, err)
		}
	}
}

// The names of interfaces have 15 characters. Each task has its own name.
func TestPortName(t *testing.T) {
	a, b := PortName("swarm", "task1"), PortName("swarm", "task2")
	if len(a) != 15 || a == b || a != PortName("swarm", "task1") {
		t.Errorf("got %s and %s", a, b)
	}
}
