//go:build linux

package forwarding

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"swarm/overlay/netns"
)

// host is a namespace with forwarding off and one interface that takes router advertisements.
type host struct {
	*testing.T
	ns *netns.Namespace
	h  *netlink.Handle
}

func newHost(t *testing.T) host {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ns")
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(path); err != nil {
			t.Error(err)
		}
	})
	ns, err := netns.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	h, err := ns.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	x := host{t, ns, h}
	x.set("ipv4/ip_forward", "0")
	x.set("ipv6/conf/all/forwarding", "0")
	x.set("ipv6/conf/default/accept_ra", "0")
	x.add("eth0.7")
	x.set("ipv6/conf/eth0.7/accept_ra", "1")
	return x
}

func (x host) set(key, value string) {
	x.Helper()
	if err := x.ns.SetSysctls(map[string]string{key: value}); err != nil {
		x.Fatal(err)
	}
}

// want compares IPv4 forwarding, IPv6 forwarding, and accept_ra of eth0.7.
func (x host) want(when, want string) {
	x.Helper()
	var got []string
	for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/eth0.7/accept_ra"} {
		v, err := x.ns.Sysctl(key)
		if err != nil {
			x.Fatal(err)
		}
		got = append(got, v)
	}
	if s := strings.Join(got, " "); s != want {
		x.Errorf("%s: forwarding, IPv6 forwarding and accept_ra are %s, want %s", when, s, want)
	}
}

// add makes a device, as one end of a veth pair.
func (x host) add(name string) netlink.Link {
	x.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := netlink.NewVeth(attrs)
	veth.PeerName = "peer-" + name
	if err := x.h.LinkAdd(veth); err != nil {
		x.Fatal(err)
	}
	return x.link(name)
}

func (x host) link(name string) netlink.Link {
	x.Helper()
	l, err := x.h.LinkByName(name)
	if err != nil {
		x.Fatal(err)
	}
	return l
}

func (x host) enable(name string) {
	x.Helper()
	if err := Enable(x.ns, x.h, x.link(name)); err != nil {
		x.Fatal(err)
	}
}

// remove deletes a device and undoes what its alias records.
func (x host) remove(name string) {
	x.Helper()
	l := x.link(name)
	if err := x.h.LinkDel(l); err != nil {
		x.Fatal(err)
	}
	if err := Undo(x.ns, x.h, l.Attrs().Alias); err != nil {
		x.Fatal(err)
	}
}

// The last device that goes restores the values from before the first, in whatever order they go.
func TestEnable_LastDeviceRestores(t *testing.T) {
	x := newHost(t)
	x.add("swarm0")
	x.add("swmesh")
	x.enable("swarm0")
	x.want("first device", "1 1 2")
	if alias := x.link("swarm0").Attrs().Alias; alias != "swarm; ip_forward was 0; ipv6 forwarding was 0; accept_ra was 1: eth0.7" {
		t.Errorf("alias: %q", alias)
	}
	x.enable("swmesh")
	if a, b := x.link("swarm0").Attrs().Alias, x.link("swmesh").Attrs().Alias; a != b {
		t.Errorf("the second device records %q, want the values from before the first: %q", b, a)
	}
	x.remove("swarm0")
	x.want("one of two devices removed", "1 1 2")
	x.remove("swmesh")
	x.want("both removed", "0 0 1")
}

// A second call sets the values again, and keeps the record.
func TestEnable_Again(t *testing.T) {
	x := newHost(t)
	x.add("swarm0")
	x.enable("swarm0")
	x.set("ipv4/ip_forward", "0")
	x.enable("swarm0")
	x.want("enabled again", "1 1 2")
	x.remove("swarm0")
	x.want("removed", "0 0 1")
}

// A host which forwarded before swarm came goes on doing so.
func TestUndo_KeepsTheHostsOwnForwarding(t *testing.T) {
	x := newHost(t)
	x.set("ipv4/ip_forward", "1")
	x.add("swarm0")
	x.enable("swarm0")
	x.remove("swarm0")
	x.want("removed", "1 0 1")
}

// Programs of another bridge, such as dockerd, may rely on forwarding by now.
func TestUndo_LeavesForwardingToOtherBridges(t *testing.T) {
	x := newHost(t)
	x.add("swarm0")
	x.enable("swarm0")
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "docker0"
	if err := x.h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	x.remove("swarm0")
	x.want("removed beside a bridge", "1 1 2")
}

// An interface that has gone since is no error, and an alias of another program is not read.
func TestUndo_Aliases(t *testing.T) {
	x := newHost(t)
	x.set("ipv4/ip_forward", "1")
	if err := Undo(x.ns, x.h, "ip_forward was 0"); err != nil {
		t.Error(err)
	}
	x.want("alias of another program", "1 0 1")
	if err := Undo(x.ns, x.h, "swarm; ip_forward was 0; ipv6 forwarding was 0; accept_ra was 1: gone0 eth0.7"); err != nil {
		t.Error(err)
	}
	x.want("alias that names an interface which has gone", "0 0 1")
}
