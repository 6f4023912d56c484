package scenarios

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"swarm/dev"
)

// spoofedRequests is the number of requests to a service whose address a container claims. With
// this many the attack succeeds if nothing prevents it.
const spoofedRequests = 30

// attackBySpoofing has containers send raw frames, which Docker's default capabilities allow. One
// container claims the address of another service's task. One leaves an internal network with an
// unused source address. One reaches the cluster's own ports with the address of a task that may
// reach them.
func (c *testCluster) attackBySpoofing() {
	host, other := c.hosts[1], c.hosts[2]
	here := "node.hostname==" + host.Name
	c.swarm("service", "create", "--name", "victim", "--constraint", here,
		"--publish", "published=7100,target=8080,mode=host", "--publish", "published=7101,target=8080", "swarm/hello:1")
	c.swarm("network", "create", "--internal", "closed")
	c.swarm("network", "create", "--host-access", "trusted")
	c.swarm("service", "create", "--name", "trusted", "--network", "trusted", "--constraint", here, "swarm/hello:1")
	victim, trusted := c.addressOnBridge(c.running("victim"), host), c.addressOnBridge(c.running("trusted"), host)

	away, reached := c.accepts(other)
	defer away.Close()
	target := netip.AddrPortFrom(other.Address, away.Addr().(*net.TCPAddr).AddrPort().Port()).String()
	free := netip.AddrFrom4([4]byte{victim.As4()[0], victim.As4()[1], 200, 200})
	for name, args := range map[string][]string{
		"thief":    {"swarm/hello:1", "-spoof", victim.String()},
		"prisoner": {"--network", "closed", "--publish", "published=7102,target=8080", "swarm/hello:1", "-spoof", free.String(), "-spoof-dial", target},
		"liar":     {"swarm/hello:1", "-spoof", trusted.String(), "-spoof-dial", clusterPort(other)},
	} {
		c.swarm(append([]string{"service", "create", "--name", name, "--constraint", here}, args...)...)
		c.eventually(name+" begins", func() error {
			out, err := c.run("service", "logs", name)
			if err == nil && !strings.Contains(out, "spoof: begins") {
				err = errors.New("the spoofer has not started")
			}
			return err
		})
	}
	good := 0
	for range spoofedRequests {
		for _, port := range []uint16{7100, 7101} {
			if err := c.asksVictim(netip.AddrPortFrom(host.Address, port)); err == nil {
				good++
			}
		}
		<-time.After(100 * time.Millisecond) // The kernel keeps a neighbour for a second.
	}
	c.t.Logf("%d of %d requests are answered by the service; an internal network was left by %d connections",
		good, 2*spoofedRequests, reached.Load())
	if good < 2*spoofedRequests {
		c.t.Errorf("a container that claims another's address: %d of %d requests are not answered by the service", 2*spoofedRequests-good, 2*spoofedRequests)
	}
	if n := reached.Load(); n > 0 {
		c.t.Errorf("a container on an internal network opened %d connections to another host", n)
	}
	for _, name := range []string{"thief", "prisoner", "liar"} {
		out := c.swarm("service", "logs", name)
		for _, success := range []string{"spoof: took", "spoof: reached"} {
			if strings.Contains(out, success) {
				c.t.Errorf("%s:\n%s", name, out)
			}
		}
	}
	c.swarm("service", "rm", "victim", "trusted", "thief", "prisoner", "liar")
}

// addressOnBridge returns a task's address on the bridge of its host.
func (c *testCluster) addressOnBridge(task psRow, h dev.Host) (addr netip.Addr) {
	c.t.Helper()
	var bridge netip.Prefix
	first := func(addrs []net.Addr, ok func(netip.Prefix) bool) (out netip.Prefix) {
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && ok(p) {
				out = p
			}
		}
		return out
	}
	err := c.playground.Do(h.Name, func() error {
		link, err := net.InterfaceByName("swarm0")
		if err != nil {
			return err
		}
		addrs, err := link.Addrs()
		bridge = first(addrs, func(netip.Prefix) bool { return true }).Masked()
		return err
	})
	if err == nil {
		err = c.inContainer(task, func() error {
			addrs, err := net.InterfaceAddrs()
			addr = first(addrs, func(p netip.Prefix) bool { return bridge.Contains(p.Addr()) }).Addr()
			return err
		})
	}
	if err != nil || !addr.IsValid() {
		c.t.Fatalf("task %s has no address in %s: %v", task.id, bridge, err)
	}
	return addr
}

// accepts listens on a host and counts the connections.
func (c *testCluster) accepts(h dev.Host) (net.Listener, *atomic.Int64) {
	c.t.Helper()
	var l net.Listener
	if err := c.playground.Do(h.Name, func() (err error) { l, err = net.Listen("tcp4", ":0"); return err }); err != nil {
		c.t.Fatal(err)
	}
	var n atomic.Int64
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			n.Add(1)
			_ = conn.Close()
		}
	}()
	return l, &n
}

// asksVictim requests the page at a published port and returns an error unless the service itself
// answers.
func (c *testCluster) asksVictim(at netip.AddrPort) error {
	client := http.Client{
		Timeout:   2 * time.Second,
		Transport: &http.Transport{DialContext: c.dialFrom(c.hosts[0]), DisableKeepAlives: true},
	}
	answer, err := client.Get("http://" + at.String() + "/")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && (answer.StatusCode != http.StatusOK || strings.Contains(string(text), "stolen")) {
		err = fmt.Errorf("%s %q", answer.Status, text)
	}
	return err
}
