//go:build linux

package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"

	"swarm/overlay/bridge"
	"swarm/overlay/mesh"
)

// Open connections stay at their backend, whatever happens to other backends and to the daemon.
func TestChanges_BreakNoConnection(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.hosts[0], w.hosts[1]
	here, there, more := n1.run("here"), n2.run("there"), n2.run("more")
	w.publish(port(8080, here, there))
	const each = 500
	type open struct {
		*talk
		first string
	}
	var all []open
	for i := range 4 * each {
		host, addr := i%2*2, v4(11)
		if i%4 >= 2 {
			addr = v6(11)
		}
		if host == 2 {
			addr = v4(13)
		}
		c, err := dial(w.client, "tcp", at(addr, 8080))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		first, err := c.ask()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, open{c, first})
	}
	check := func(what string) {
		t.Helper()
		for _, c := range all {
			if got, err := c.ask(); err != nil || got != c.first {
				t.Fatalf("%s: a connection that said %q: %q, %v", what, c.first, got, err)
			}
		}
	}
	w.publish(port(8080, more))
	check("other backends")
	w.want("new connections", w.client, "tcp", at(v4(11), 8080), "more "+v4(clientNumber).String())
	for _, h := range w.hosts {
		h.start()
	}
	check("no daemon")
	w.publish(port(8080, there, more), port(8081, more))
	check("new daemons")
	for _, h := range w.hosts {
		h.do(flush)
		h.start()
	}
	w.publish(port(8080, there))
	check("rules flushed, new daemons")
	seen := map[string]int{}
	for _, c := range all {
		seen[c.first]++
	}
	t.Logf("%d connections: %v", len(all), seen)
}

func flush() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.FlushRuleset()
	return c.Flush()
}

// A client may use one source port for two hosts, as load balancers do. Both hosts forward it to
// the same third host.
func TestClientPort_TowardsTwoHostsAtOnce(t *testing.T) {
	w := newWorld(t)
	there := w.hosts[1].run("there")
	w.publish(port(8080, there), udp(port(8080, there)))
	for _, addr := range []func(int) netip.Addr{v4, v6} {
		client := addr(clientNumber)
		for _, network := range []string{"tcp", "udp"} {
			var both []*talk
			for _, host := range []int{11, 13} {
				c, err := dialFrom(w.client, network, at(client, 44444), at(addr(host), 8080))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				both = append(both, c)
			}
			for range 3 {
				for i, c := range both {
					if got, err := c.ask(); err != nil || got != "there "+client.String() {
						t.Errorf("%s, host %d of two: %q, %v", network, i+1, got, err)
					}
				}
			}
		}
	}
}

func TestRestart_MendsWhatIsGone(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.hosts[0], w.hosts[1]
	there := n2.run("there")
	w.publish(port(8080, there))
	client := v4(clientNumber).String()
	for what, harm := range map[string]func() error{
		"rules flushed": flush,
		"routing rules and neighbours gone": func() error {
			return run("ip rule del pref 5358; ip rule del pref 5357; ip -6 rule del pref 5358; ip neigh flush dev swmesh nud permanent; bridge fdb del 02:42:0a:00:00:03 dev swmesh self || true")
		},
		"device gone":       func() error { return run("ip link del swmesh") },
		"device is another": func() error { return run("ip link del swmesh; ip link add swmesh type vxlan id 7 dstport 4789") },
	} {
		for _, h := range []*host{n1, n2} {
			h.do(harm)
			h.start()
			h.sync(h.state(port(8080, there)))
		}
		w.want(what, w.client, "tcp", at(v4(11), 8080), "there "+client)
		w.want(what, w.client, "tcp", at(v6(13), 8080), "there "+v6(clientNumber).String())
	}
}

func run(script string) error {
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, out)
	}
	return nil
}

func TestSync_BackendsComeAndGo(t *testing.T) {
	w := newWorld(t)
	n1, n2, n3 := w.hosts[0], w.hosts[1], w.hosts[2]
	a, b := n2.run("a"), n3.run("b")
	for _, addr := range []func(int) netip.Addr{v4, v6} {
		client := addr(clientNumber).String()
		w.publish(port(8080, a), udp(port(8080, a)))
		flow, err := dial(w.client, "udp", at(addr(11), 8080))
		if err != nil {
			t.Fatal(err)
		}
		defer flow.Close()
		for _, c := range []*container{a, b, a} {
			w.publish(port(8080, c), udp(port(8080, c)))
			if got, err := flow.ask(); err != nil || got != c.name+" "+client {
				t.Errorf("datagrams after a change: %q, %v, want %s", got, err, c.name)
			}
		}
		// The asked hosts do not know yet that the backend has moved from n2 to n3. n2 forwards to
		// n3.
		w.publish(port(8080, a))
		for _, h := range []*host{n2, n3} {
			h.sync(h.state(port(8080, b)))
		}
		w.want("by the former host", w.client, "tcp", at(addr(11), 8080), "b "+client)
		// The asked host has a backend too, and knows of one on n2 earlier than n2 does. n2
		// forwards back.
		n3.sync(n3.state(port(8080, a, b)))
		for range 8 {
			w.want("back to the asked host", w.client, "tcp", at(addr(13), 8080), "b "+client)
		}
		// There is no backend: connections are refused at once.
		w.publish(port(8080), udp(port(8080)))
		for _, network := range []string{"tcp", "udp"} {
			w.refused(w.client, network, at(addr(11), 8080))
			w.refused(n1.ns, network, at(addr(11), 8080))
		}
		// When a lost host is known to be gone, its connections are reset.
		w.publish(port(8080, a))
		c, err := dial(w.client, "tcp", at(addr(11), 8080))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.ask(); err != nil {
			t.Fatal(err)
		}
		n3.sync(n3.state(port(8080, b)))
		s := n1.state(port(8080, b))
		s.Peers = slices.DeleteFunc(s.Peers, func(n mesh.Node) bool { return n.ID == n2.name })
		n1.sync(s)
		if _, err := c.ask(); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
			t.Errorf("connection to a host that is gone: %v, want reset", err)
		}
		w.want("the others", w.client, "tcp", at(addr(11), 8080), "b "+client)
	}
}

func TestSync_EveryBackendTakesPart(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.hosts[0].run("a"), w.hosts[1].run("b"), w.hosts[1].run("c")
	w.publish(port(8080, a, b, c))
	seen := map[string]int{}
	for range 300 {
		got, err := ask(w.client, "tcp", at(v4(13), 8080))
		if err != nil {
			t.Fatal(err)
		}
		seen[got[:1]]++
	}
	for _, name := range []string{"a", "b", "c"} {
		if n := seen[name]; n < 60 || n > 140 {
			t.Errorf("300 requests were answered by %v, want about 100 each", seen)
		}
	}
}

func TestSync_OneAddressAndPortsOfOthers(t *testing.T) {
	w := newWorld(t)
	n1 := w.hosts[0]
	here := n1.run("here")
	bound := port(8080, here)
	bound.IP = v4(11)
	w.publish(bound)
	w.want("bound", w.client, "tcp", at(v4(11), 8080), "here "+v4(clientNumber).String())
	for _, to := range []string{at(v6(11), 8080), at(v4(12), 8080)} {
		if got, err := ask(w.client, "tcp", to); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %q, %v, want refused: the port is bound to another address", to, got, err)
		}
	}
	// A port that another program uses stays with the program and is reported.
	w.serve(n1.ns, "foreign", 8090)
	s := n1.state(port(8090, here), port(8091, here))
	n1.do(func() error {
		conflicts, err := n1.mesh.Sync(context.Background(), s)
		if len(conflicts) != 1 || conflicts[0].Published != 8090 || !errdefs.IsAlreadyExists(conflicts[0].Err) || !strings.Contains(conflicts[0].Err.Error(), "mesh.test") {
			t.Errorf("conflicts: %v, want one for port 8090 that names the program", conflicts)
		}
		return err
	})
	w.want("foreign", w.client, "tcp", at(v4(11), 8090), "foreign "+v4(clientNumber).String())
	w.want("ours", w.client, "tcp", at(v4(11), 8091), "here "+v4(clientNumber).String())
	w.hosts[1].sync(w.hosts[1].state(port(8090, here)))
	w.want("by another host", w.client, "tcp", at(v4(12), 8090), "here "+v4(clientNumber).String())
	// No other program can bind our ports.
	n1.do(func() error {
		if l, err := net.Listen("tcp", ":8091"); err == nil {
			l.Close()
			t.Error("another program could listen on a published port")
		}
		return nil
	})
}

// everything lists all objects that the mesh could have left on a host.
func (h *host) everything() string {
	var out string
	h.do(func() error {
		b, err := exec.Command("sh", "-c", `
			ip -o link show | grep -v swb- | sed 's/^[0-9]*: //'; ip -o addr show scope global | awk '{print $2, $4}'
			ip rule; ip -6 rule; ip route show table all | grep -v fe80; ip -6 route show table all | grep -v fe80
			nft list ruleset; sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv6.conf.eth0.accept_ra
			ss -Hlntu`).CombinedOutput()
		out = string(b)
		return err
	})
	return out
}

func TestPurge_LeavesNothing(t *testing.T) {
	w := newWorld(t)
	n1 := w.hosts[0]
	for _, h := range w.hosts {
		h.do(func() error {
			return run(`nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }
				add table ip6 filter; add chain ip6 filter FORWARD { type filter hook forward priority 0; policy drop; }'
				nft 'add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; }
				add rule inet firewalld filter_FORWARD ct state { established, related } accept; add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited'`)
		})
	}
	before := n1.everything()
	for _, purge := range []bool{true, false} {
		here, there := n1.run("here"), w.hosts[1].run("there")
		w.publish(port(8080, there), port(8081, here))
		// Firewalls that drop forwarded packets get accept rules for the mesh.
		w.want("firewall", w.client, "tcp", at(v4(11), 8080), "there "+v4(clientNumber).String())
		w.want("firewall", w.client, "tcp", at(v6(11), 8080), "there "+v6(clientNumber).String())
		w.want("firewall", w.client, "tcp", at(v4(13), 8081), "here "+v4(clientNumber).String())
		if purge {
			// The bridge network comes first, and then the other way round.
			n1.do(func() error { return n1.bridge.Purge(context.Background()) })
			n1.do(func() error { return n1.mesh.Purge(context.Background()) })
		} else {
			n1.sync(n1.state())
			n1.do(func() error { return n1.bridge.Purge(context.Background()) })
		}
		if after := n1.everything(); after != before {
			t.Errorf("purge %v: before:\n%s\nafter:\n%s", purge, before, after)
		}
		if !purge {
			break
		}
		for _, c := range []*container{here, there} {
			c.host.do(func() error { return c.host.bridge.Detach(context.Background(), c.name) })
		}
	}
}

func TestRun_MendsWhatOthersFlush(t *testing.T) {
	w := newWorld(t)
	n1 := w.hosts[0]
	there := w.hosts[1].run("there", bridge.Port{Target: 81})
	w.publish(port(8080, there))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n1.ns.Do(func() error { return n1.mesh.Run(ctx) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	n1.do(flush)
	for range 100 {
		if got, err := ask(w.client, "tcp", at(v4(11), 8080)); err == nil && got == "there "+v4(clientNumber).String() {
			return
		}
		// Run may not be listening yet when the first flush happens: one more change wakes it.
		n1.do(func() error { return run("nft add table inet other; nft delete table inet other") })
		<-tick.C
	}
	t.Error("the port does not answer again after a flush")
}

// A port whose number of slots changes moves to another map. Each packet must find it in one of the
// two maps.
func TestSync_NothingIsMissedBetweenTwoMaps(t *testing.T) {
	w := newWorld(t)
	n1 := w.hosts[0]
	a, b, c := n1.run("a"), n1.run("b"), n1.run("c")
	w.publish(port(8080, a))
	ctx, cancel := context.WithCancel(t.Context())
	var (
		all           sync.WaitGroup
		asked, missed atomic.Int64
	)
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				conn, err := dial(w.client, "tcp", at(v4(11), 8080))
				if asked.Add(1); err != nil {
					missed.Add(1)
					t.Logf("after %d connections: %v", asked.Load(), err)
					continue
				}
				conn.Close()
			}
		})
	}
	changes := 0
	for began := time.Now(); time.Since(began) < 2*time.Second; changes += 3 {
		n1.sync(n1.state(port(8080, a, b)))
		n1.sync(n1.state(port(8080, a, b, c)))
		n1.sync(n1.state(port(8080, a)))
	}
	cancel()
	all.Wait()
	t.Logf("%d connections, %d changes", asked.Load(), changes)
	if n := missed.Load(); n > 0 {
		t.Errorf("%d of %d connections found no backend", n, asked.Load())
	}
}
