package scenarios

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"

	"golang.org/x/sync/errgroup"
)

const (
	// neighboursSought is the number of neighbours in each address range. It exceeds the kernel's
	// default limit for all namespaces together.
	neighboursSought = 3000
	// anewSought is the number of times that the host resolves the address of another host again
	// meanwhile.
	anewSought = 20
)

// attackByNeighbours has a container send to thousands of addresses of its bridge. Meanwhile its
// host resolves the address of another host again, and a new container resolves its gateway.
func (c *testCluster) attackByNeighbours() {
	host, other := c.hosts[1], c.hosts[2]
	here := "node.hostname==" + host.Name
	c.swarm("service", "create", "--name", "seeker", "--constraint", here, "swarm/hello:1")
	seeker := c.running("seeker")
	own := c.addressOnBridge(seeker, host)

	seeking, stop := context.WithCancel(c.ctx)
	defer stop()
	var seek errgroup.Group
	seek.Go(func() error {
		return c.inContainer(seeker, func() error { return seekNeighbours(seeking, own) })
	})
	var failed []error
	for range anewSought {
		if err := c.playground.Do(host.Name, func() error {
			if text, err := exec.CommandContext(c.ctx, "ip", "neigh", "flush", "to", other.Address.String()).CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, text)
			}
			return connects(netip.MustParseAddrPort(clusterPort(other)))
		}); err != nil {
			failed = append(failed, err)
		}
	}
	c.swarm("service", "create", "--name", "newcomer", "--constraint", here, "--publish", "published=7110,target=8080,mode=host", "swarm/hello:1")
	if err := c.playground.Do(other.Name, func() error { return connects(netip.AddrPortFrom(host.Address, 7110)) }); err != nil {
		c.t.Errorf("a new container does not answer while another looks for neighbours: %v", err)
	}
	stop()
	if err := seek.Wait(); err != nil {
		c.t.Fatal(err)
	}
	var held []byte
	if err := c.inContainer(seeker, func() (err error) {
		held, err = exec.Command("ip", "neigh").CombinedOutput()
		return err
	}); err != nil {
		c.t.Fatal(err)
	}
	n := strings.Count(string(held), "\n")
	c.t.Logf("a container that looks for %d neighbours has %d; %d of %d connections of its host failed", 3*neighboursSought, n, len(failed), anewSought)
	if len(failed) > 0 {
		c.t.Errorf("a host does not reach another while a container looks for neighbours: %v", failed[0])
	}
	if n > 4 {
		c.t.Errorf("a container has %d neighbours, want only its gateways", n)
	}
	c.swarm("service", "rm", "seeker", "newcomer")
}

// seekNeighbours sends to addresses around a, and to as many IPv6 addresses, until ctx ends.
func seekNeighbours(ctx context.Context, a netip.Addr) error {
	conn, err := net.ListenPacket("udp", ":0")
	if err != nil {
		return err
	}
	defer conn.Close()
	b := a.As4()
	for ctx.Err() == nil {
		for i := range neighboursSought {
			for _, to := range []string{
				fmt.Sprintf("%d.%d.%d.%d", b[0], b[1], 100+i/250, 1+i%250), fmt.Sprintf("fd53:5741:524d::77:%x", i), fmt.Sprintf("fe80::77:%x%%eth0", i),
			} {
				_, _ = conn.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(to), 9))) // A missing route serves as well.
			}
		}
	}
	return nil
}
