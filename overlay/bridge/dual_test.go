//go:build linux

package bridge_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"

	"swarm/overlay/bridge"
)

const (
	hostAddr6   = "fd00:211::11"
	clientAddr6 = "fd00:211::12"
)

// dual adds IPv6 to both machines.
func (w *world) dual() {
	w.t.Helper()
	for _, err := range []error{addAddress6(w.host, hostAddr6+"/64"), addAddress6(w.client, clientAddr6+"/64")} {
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestAttach_IPv6(t *testing.T) {
	w := newWorld(t)
	w.dual()
	a := w.attach("a", bridge.Port{Published: 8080, Target: 80}, bridge.Port{Published: 8081, Target: 80, HostIP: netip.MustParseAddr(hostAddr6)})
	b := w.attach("b")
	if a.Address6.String() != "fd53:5741:524d::2/64" || a.Gateway6.String() != "fd53:5741:524d::1" {
		t.Errorf("first attachment: %+v", a)
	}
	w.serve(a, "a", 80)
	wantAnswer(t, "task to task", w.in(b), "[fd53:5741:524d::2]:80", "a fd53:5741:524d::3")
	for port, where := range map[string]string{"8080": "all addresses", "8081": "one address"} {
		wantAnswer(t, "client, "+where, w.client, "["+hostAddr6+"]:"+port, "a "+clientAddr6)
		wantAnswer(t, "host, "+where, w.host, "["+hostAddr6+"]:"+port, "a "+hostAddr6)
		wantAnswer(t, "task, "+where, w.in(b), "["+hostAddr6+"]:"+port, "a fd53:5741:524d::1")
		wantAnswer(t, "task to itself, "+where, w.in(a), "["+hostAddr6+"]:"+port, "a fd53:5741:524d::1")
	}
	wantAnswer(t, "host by loopback", w.host, "[::1]:8080", "a fd53:5741:524d::1")
	wantNoAnswer(t, "one address, IPv4", w.client, hostAddr+":8081")
	// Connections to the outside show the host's address, and clients outside cannot connect to the
	// range.
	l := w.listen(w.client, 90)
	w.answer(l, "world")
	wantAnswer(t, "task to world", w.in(a), "["+clientAddr6+"]:90", "world "+hostAddr6)
	if err := w.client.Do(func() error { return addRoute("fd53:5741:524d::/64", hostAddr6) }); err != nil {
		t.Fatal(err)
	}
	wantNoAnswer(t, "world to task's address", w.client, "[fd53:5741:524d::2]:80")
	// A new process keeps the network as it was.
	w.restart()
	held := bridge.Existing{Attachment: bridge.Attachment{TaskID: "a", Ports: a.Ports}, Result: bridge.Result{Address: a.Address, Ports: a.Ports}}
	w.do(func() error { return w.b.Restore(context.Background(), []bridge.Existing{held}) })
	wantAnswer(t, "after a restart", w.client, "["+hostAddr6+"]:8080", "a "+clientAddr6)
}

func TestDetach_PutsForwardingBack(t *testing.T) {
	w := newWorld(t)
	values := func() (out [3]string) {
		for i, key := range []string{"ipv4.ip_forward", "ipv6.conf.all.forwarding", "ipv6.conf.eth0.accept_ra"} {
			var err error
			if out[i], err = w.host.Sysctl(key); err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	before := values()
	w.attach("a")
	// A host that forwards still learns its routes from advertisements.
	if got, want := values(), [3]string{"1", "1", "2"}; got != want {
		t.Errorf("ip_forward, forwarding, accept_ra: got %v, want %v", got, want)
	}
	w.detach("a")
	if got := values(); got != before {
		t.Errorf("left ip_forward, forwarding, accept_ra: %v, want %v as before", got, before)
	}
}

func TestAttach_LegOfATaskWithOtherNetworks(t *testing.T) {
	for _, filtered := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+filtered, func(t *testing.T) { legOfATaskWithOtherNetworks(t, filtered) })
	}
}

// The test runs with and without br_netfilter, as beside dockerd: it passes frames between ports to
// the host's rules.
func legOfATaskWithOtherNetworks(t *testing.T, filtered string) {
	w := newWorld(t)
	w.dual()
	keys := map[string]string{"bridge/bridge-nf-call-iptables": filtered, "bridge/bridge-nf-call-ip6tables": filtered}
	if err := w.host.SetSysctls(keys); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	l := w.listen(w.client, 90)
	w.answer(l, "world")
	attach := func(a bridge.Attachment) bridge.Result {
		r, err := w.tryAttach(a)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	a := attach(bridge.Attachment{TaskID: "a", Interface: "eth2", PortIsolated: true})
	b := attach(bridge.Attachment{TaskID: "b", Interface: "eth1", PortIsolated: true, NoEgress: true, Ports: []bridge.Port{{Published: 8080, Target: 80}}})
	if a.Interface != "eth2" || b.Interface != "eth1" {
		t.Errorf("interfaces %s and %s, want eth2 and eth1", a.Interface, b.Interface)
	}
	plain := attach(bridge.Attachment{TaskID: "plain"})
	w.serve(a, "a", 80)
	w.serve(b, "b", 80)
	w.serve(plain, "plain", 80)
	for _, restarted := range []bool{false, true} {
		if restarted {
			w.restart()
			w.do(func() error {
				return w.b.Restore(context.Background(), []bridge.Existing{
					{Attachment: bridge.Attachment{TaskID: "a", Interface: "eth2", PortIsolated: true}, Result: a},
					{Attachment: bridge.Attachment{TaskID: "b", Interface: "eth1", PortIsolated: true, NoEgress: true, Ports: b.Ports}, Result: b},
					{Attachment: bridge.Attachment{TaskID: "plain"}, Result: plain},
				})
			})
		}
		wantAnswer(t, "way out", w.in(a), clientAddr+":90", "world "+hostAddr)
		wantAnswer(t, "way out, IPv6", w.in(a), "["+clientAddr6+"]:90", "world "+hostAddr6)
		wantAnswer(t, "no way out, but published", w.client, hostAddr+":8080", "b "+clientAddr)
		wantAnswer(t, "no way out, but published, IPv6", w.client, "["+hostAddr6+"]:8080", "b "+clientAddr6)
		wantAnswer(t, "published, from a task", w.in(a), hostAddr+":8080", "b "+b.Gateway.String())
		wantAnswer(t, "published, from a task on the bridge", w.in(plain), hostAddr+":8080", "b "+b.Gateway.String())
		wantNoAnswer(t, "no way out", w.in(b), clientAddr+":90")
		wantNoAnswer(t, "no way out, IPv6", w.in(b), "["+clientAddr6+"]:90")
		wantNoAnswer(t, "isolated tasks", w.in(a), b.Address.Addr().String()+":80")
		wantNoAnswer(t, "isolated tasks, IPv6", w.in(b), "["+a.Address6.Addr().String()+"]:80")
		for from, to := range map[*bridge.Result]bridge.Result{&plain: a, &a: plain} {
			wantNoAnswer(t, "one isolated and one not, from "+from.Interface, w.in(*from), to.Address.Addr().String()+":80")
			wantNoAnswer(t, "one isolated and one not, IPv6, from "+from.Interface, w.in(*from), "["+to.Address6.Addr().String()+"]:80")
		}
	}
	// The host does not forward between them either, if a task sets routes or writes frames to use
	// it.
	for from, to := range map[*bridge.Result]bridge.Result{&plain: a, &a: plain} {
		if err := w.in(*from).Do(func() error { return addRoute(to.Address.Addr().String()+"/32", from.Gateway.String()) }); err != nil {
			t.Fatal(err)
		}
		wantNoAnswer(t, "one isolated and one not, by the host", w.in(*from), to.Address.Addr().String()+":80")
	}
}
