//go:build linux

package bridge_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"swarm/overlay/bridge"
	"swarm/overlay/netns"
)

// The kernel limits the neighbours of all namespaces together: each neighbour entry of a task is
// one less for the host.
func TestAttach_TaskHasNoNeighbourButTheGateway(t *testing.T) {
	w := newWorld(t)
	w.dual()
	plain := w.attach("plain")
	isolated, err := w.tryAttach(bridge.Attachment{TaskID: "isolated", PortIsolated: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]bridge.Result{"plain": plain, "isolated": isolated} {
		ns := w.in(r)
		if err := ns.Do(func() error { return sendToMany("eth0") }); err != nil {
			t.Fatal(err)
		}
		for where, ns := range map[string]*netns.Namespace{"itself": ns, "the host": w.host} {
			if got := neighbours(t, ns); len(got) > 4 {
				t.Errorf("a task that is %s sent to many addresses: %s has %d neighbours, want the gateway alone (the host: its tasks): %v...", name, where, len(got), got[:4])
			}
		}
	}
	// The tasks reach each other without routes from redirects.
	b := w.attach("b")
	w.serve(b, "b", 80)
	for range 3 {
		wantAnswer(t, "task to task", w.in(plain), b.Address.Addr().String()+":80", "b "+plain.Address.Addr().String())
		wantAnswer(t, "task to task, IPv6", w.in(plain), "["+b.Address6.Addr().String()+"]:80", "b "+plain.Address6.Addr().String())
	}
	for _, n := range neighbours(t, w.in(plain)) {
		if n != plain.Gateway && n != plain.Gateway6 && !n.IsLinkLocalUnicast() {
			t.Errorf("a task has the neighbour %s, want the gateways %s and %s alone", n, plain.Gateway, plain.Gateway6)
		}
	}
}

// sendToMany sends to addresses of every range that would be on-link elsewhere.
func sendToMany(device string) error {
	c, err := net.ListenPacket("udp", ":0")
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range 300 {
		for _, format := range []string{"172.30.%d.%d", "fd53:5741:524d::77:%x:%x", "fe80::77:%x:%x%%" + device} {
			to, err := netip.ParseAddr(fmt.Sprintf(format, 1+i/250, 1+i%250))
			if err != nil {
				return err
			}
			_, _ = c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9))) // No route is as good.
		}
	}
	return nil
}

// neighbours lists the unicast neighbours of a namespace, in any state.
func neighbours(t *testing.T, ns *netns.Namespace) (out []netip.Addr) {
	t.Helper()
	h, err := ns.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	list, err := h.NeighList(0, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list {
		if a, ok := netip.AddrFromSlice(n.IP); ok && !a.Unmap().IsMulticast() && n.State&netlink.NUD_NOARP == 0 {
			out = append(out, a.Unmap())
		}
	}
	return out
}
