package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"swarm/dev"
	"swarm/scenarios/traffic"
)

// manyConnections is the number of connections that go through a host without a backend while
// backends change.
const manyConnections = 10_000

// manyPort is the published port of these connections.
const manyPort = "7110"

// clientPorts has the published ports of testClients, by mode.
var clientPorts = []struct{ mode, port string }{{"ingress", "7100"}, {"local", "7101"}, {"host", "7102"}}

// testClients checks that a container sees the client's own address, whichever host the client
// connects to, in every publish mode and address family.
func testClients(t *testing.T, c *testCluster) {
	backend, other := c.hosts[1], c.hosts[3]
	there := []string{"--network", "red", "--constraint", "node.hostname==" + backend.Name}
	args := slices.Clone(there)
	for _, p := range clientPorts {
		for _, protocol := range []string{"tcp", "udp"} {
			args = append(args, "--publish", fmt.Sprintf("mode=%s,published=%s,target=%s,protocol=%s", p.mode, p.port, echoPort, protocol))
		}
	}
	before := len(c.members("red").members)
	c.prober("seen", args...)
	c.prober("many", append(slices.Clone(there), "--publish", "published="+manyPort+",target="+echoPort)...)
	c.waitMembers("red", before+2)
	c.published(backend, other)

	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MODE\tBACKEND\tASKED\tPROTOCOL\tCLIENT\tSEEN")
	for _, p := range clientPorts {
		for _, asked := range []dev.Host{backend, other} {
			for _, at := range []netip.Addr{asked.Address, asked.Address6} {
				for _, network := range []string{"tcp", "udp"} {
					c.seen(w, p.mode, asked, asked.Name == backend.Name, traffic.Target{Network: network, Address: net.JoinHostPort(at.String(), p.port)})
				}
			}
		}
	}
	_ = w.Flush()
	t.Logf("\n%s", &table)
	c.manyClients(backend, other)
	c.swarm("service", "rm", "seen", "many")
	c.waitMembers("red", before)
}

// published waits until the hosts answer for the ports. Ports of the mesh must answer on both
// hosts.
func (c *testCluster) published(backend, other dev.Host) {
	c.t.Helper()
	ask := func(network, port string, at netip.Addr) {
		c.t.Helper()
		to := traffic.Target{Network: network, Address: net.JoinHostPort(at.String(), port)}
		c.eventually(to.Network+" "+to.Address+" answers", func() error {
			if a := traffic.Reach(c.ctx, traffic.Dial, to); a.Err != "" {
				return errors.New(a.Err)
			}
			return nil
		})
	}
	for _, host := range []dev.Host{backend, other} {
		for _, at := range []netip.Addr{host.Address, host.Address6} {
			for _, p := range clientPorts {
				if host.Name == backend.Name || p.mode == "ingress" {
					ask("tcp", p.port, at)
					ask("udp", p.port, at)
				}
			}
			ask("tcp", manyPort, at)
		}
	}
}

// seen adds rows to the table: the addresses that the container sees for clients on this machine
// and on a third host.
func (c *testCluster) seen(table *tabwriter.Writer, mode string, asked dev.Host, local bool, to traffic.Target) {
	c.t.Helper()
	third := c.hosts[2]
	v6 := strings.HasPrefix(to.Address, "[")
	machine := c.machine(v6)
	client := third.Address.String()
	if v6 {
		client = third.Address6.String()
	}
	for _, from := range []struct {
		what, address string
		dial          traffic.Dialer
	}{{"machine", machine, traffic.Dial}, {third.Name, client, c.dialFrom(third)}} {
		a := traffic.Reach(c.ctx, from.dial, to)
		want, where, saw := from.address, "local", a.Client
		if !local {
			where = "remote"
		}
		if !local && mode != "ingress" {
			want = "" // The port must not answer there.
		}
		if a.Err != "" {
			saw = "refused"
			if !strings.Contains(a.Err, "refused") {
				c.t.Errorf("%s port at %s from %s: %s", mode, to.Address, from.what, a.Err)
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s %s\t%s\n", mode, where, asked.Name, to.Network, from.what, from.address, saw)
		if a.Client != want {
			c.t.Errorf("%s port at %s (%s backend, %s): the container saw %q, want %q (%s)", mode, to.Address, where, to.Network, a.Client, want, a.Err)
		}
	}
}

// machine returns this machine's address on the hosts' network.
func (c *testCluster) machine(v6 bool) string {
	first := c.hosts[0].Address
	bytes := first.As4()
	bytes[3] = 1
	if !v6 {
		return netip.AddrFrom4(bytes).String()
	}
	long := c.hosts[0].Address6.As16()
	copy(long[12:], bytes[:])
	return netip.AddrFrom16(long).String()
}

// dialFrom returns a dialer that opens connections from inside a host.
func (c *testCluster) dialFrom(h dev.Host) traffic.Dialer {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		doErr := c.playground.Do(h.Name, func() error {
			conn, err = traffic.Dial(ctx, network, address)
			return err
		})
		return conn, doErr
	}
}

// manyClients opens very many connections through a host without a backend while backends start and
// stop. None may fail, and each must have the address of its own client.
func (c *testCluster) manyClients(backend, asked dev.Host) {
	c.t.Helper()
	to := traffic.Target{Network: "tcp", Address: net.JoinHostPort(asked.Address.String(), manyPort)}
	want := c.machine(false)
	var (
		all        sync.WaitGroup
		left, done atomic.Int64
	)
	left.Store(manyConnections)
	began := time.Now()
	defer all.Wait()
	defer left.Store(0)
	for range 8 {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				switch a := traffic.Reach(c.ctx, traffic.Dial, to); {
				case a.Err != "":
					c.t.Errorf("connection %d: %s", done.Load(), a.Err)
				case a.Client != want:
					c.t.Errorf("connection %d: the container saw %q, want %q", done.Load(), a.Client, want)
				}
				done.Add(1)
			}
		})
	}
	c.eventually("a third of the connections", func() error { return atLeast(&done, manyConnections/3) })
	for _, scale := range []string{"many=3", "many=1"} {
		c.swarm("service", "scale", scale)
	}
	during := done.Load()
	all.Wait()
	c.t.Logf("%d connections through %s to %s in %v, backends changed between %d and %d", manyConnections, asked.Name,
		backend.Name, time.Since(began).Round(time.Millisecond), manyConnections/3, during)
}

func atLeast(n *atomic.Int64, want int64) error {
	if got := n.Load(); got < want {
		return fmt.Errorf("%d of %d", got, want)
	}
	return nil
}
