package scenarios

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"swarm/dev"
)

// attackLog opens thousands of connections that are refused.
func (c *testCluster) attackLog() {
	before := c.linesOfLog(c.hosts[0])
	c.fromHost(c.hosts[1], refusedConnections, func(i int, conn net.Conn) {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if i%2 == 0 {
			_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
		} else {
			_ = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"swarm-raft/1"}}).Handshake()
		}
		_, _ = io.Copy(io.Discard, conn)
	})
	written := c.linesOfLog(c.hosts[0]) - before
	c.t.Logf("%d refused connections: %d lines of log", refusedConnections, written)
	if written > 100 {
		c.t.Errorf("log lines of %d refused connections: got %d, want at most 100", refusedConnections, written)
	}
}

func (c *testCluster) linesOfLog(h dev.Host) int {
	c.t.Helper()
	text, err := os.ReadFile(h.Log)
	if err != nil {
		c.t.Fatal(err)
	}
	return bytes.Count(text, []byte("\n"))
}

// fromHost opens connections to the first host from inside another host, and returns when each was
// used.
func (c *testCluster) fromHost(h dev.Host, n int, use func(int, net.Conn)) {
	c.t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 64)
	for i := range n {
		slots <- struct{}{}
		conn := c.dialAs(h, netip.Addr{})
		if conn == nil {
			<-slots
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			use(i, conn)
		})
	}
	wg.Wait()
}

// dialAs connects to the manager's cluster port from one of a host's addresses. It returns nil if
// the connection is refused.
func (c *testCluster) dialAs(h dev.Host, from netip.Addr) (conn net.Conn) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	_ = c.playground.Do(h.Name, func() (err error) { // A refused connection is a valid result.
		conn, err = d.Dial("tcp", clusterPort(c.hosts[0]))
		return err
	})
	return conn
}

// attackByFlood opens hostile connections from many addresses while a host joins.
func (c *testCluster) attackByFlood() {
	manager, attacker, joiner := c.hosts[0], c.hosts[1], c.hosts[2]
	calm, err := c.joinAgain(joiner)
	if err != nil {
		c.t.Fatal(err)
	}
	c.leave(joiner)
	before := c.resident(manager)
	c.forgetPeak(manager)
	f := newFlood(c, attacker, c.moreAddresses(attacker))
	f.open(hostileConnections)
	f.press()
	took, err := c.join(joiner)
	if err != nil {
		c.t.Errorf("a valid join during the attack: %v", err)
	}
	c.allReady()
	f.close()
	grown := c.peak(manager) - before
	c.t.Logf("%d hostile connections, %d MiB sent: the manager grew from %d MiB by %d MiB; a good join took %v, without them %v",
		hostileConnections, f.sent.Load()>>20, before>>20, grown>>20, took.Round(time.Millisecond), calm.Round(time.Millisecond))
	if grown > mayGrow {
		c.t.Errorf("memory growth of the manager: got %d MiB, want at most %d", grown>>20, mayGrow>>20)
	}
	if took > joinBound {
		c.t.Errorf("a valid join during the attack took %v, want at most %v", took, joinBound)
	}
}

func (c *testCluster) leave(h dev.Host) {
	c.t.Helper()
	if out, err := c.runAt(h, "leave"); err != nil {
		c.t.Fatal(err, out)
	}
	c.eventually("the node is removed", func() error { return ignore(c.run("node", "rm", "--force", h.Name)) })
}

// join joins a host and returns the time that this took.
func (c *testCluster) join(h dev.Host) (time.Duration, error) {
	c.t.Helper()
	token := strings.TrimSpace(c.swarm("join-token", "-q", "worker"))
	began := time.Now()
	_, err := c.runAt(h, "join", "--token", token, clusterPort(c.hosts[0]))
	return time.Since(began), err
}

// joinAgain has a member leave and join again.
func (c *testCluster) joinAgain(h dev.Host) (time.Duration, error) {
	c.t.Helper()
	c.leave(h)
	return c.join(h)
}

func ignore(_ string, err error) error { return err }

// moreAddresses adds addresses to a host on its network, and returns them.
func (c *testCluster) moreAddresses(h dev.Host) (out []netip.Addr) {
	c.t.Helper()
	addr := h.Address.As4()
	for i := range hostileAddresses {
		addr[3] = byte(200 + i)
		more := netip.AddrFrom4(addr)
		if text, err := exec.CommandContext(c.ctx, "nsenter", "--net="+h.Namespace, "ip", "addr", "add", more.String()+"/32", "dev", "eth0").CombinedOutput(); err != nil {
			c.t.Fatalf("%v: %s", err, text)
		}
		out = append(out, more)
	}
	return out
}

// forgetPeak resets the kernel's record of the peak memory of a host's daemon. peak reads that
// record.
func (c *testCluster) forgetPeak(h dev.Host) {
	c.t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", c.host(h.Name).PID), []byte("5"), 0o200); err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCluster) peak(h dev.Host) int64 {
	c.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.host(h.Name).PID))
	if err != nil {
		c.t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(text), "VmHWM:")
	kib, err := strconv.ParseInt(strings.Fields(line)[0], 10, 64)
	if err != nil {
		c.t.Fatal(err)
	}
	return kib << 10
}

var errStopped = errors.New("the attack is over")
