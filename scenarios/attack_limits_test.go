package scenarios

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/dev"
	"swarm/internal/eventually"
	"swarm/internal/pki"
	"swarm/internal/transport"
	"swarm/overlay/netns"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	hostileConnections = 2000
	refusedConnections = 5000
	// hostileAddresses is the number of addresses from which the hostile connections come.
	hostileAddresses = 40
	mayGrow          = 50 << 20
	// joinBound bounds the time that a join may take. It is generous, because other tests share the
	// machine. The test prints the measured time.
	joinBound = 20 * time.Second
)

// TestAttackLimits attacks as callers without a certificate, as hosts that have a join token, and
// from containers.
func TestAttackLimits(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	t.Parallel()
	c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 3, Managers: 1, IPv6: true})
	for _, step := range []struct {
		name string
		run  func(*testCluster)
	}{
		{"container", (*testCluster).attackFromContainer},
		{"spoof", (*testCluster).attackBySpoofing},
		{"neighbours", (*testCluster).attackByNeighbours},
		{"probe", (*testCluster).attackByProbe},
		{"log", (*testCluster).attackLog},
		{"flood", (*testCluster).attackByFlood},
		{"ghosts", (*testCluster).attackByGhosts},
	} {
		t.Run(step.name, func(t *testing.T) { step.run(c.in(t)) })
	}
}

// attackFromContainer connects from a container to the cluster's own ports on every address of
// every host.
func (c *testCluster) attackFromContainer() {
	c.swarm("service", "create", "--name", "web", "--publish", "published="+meshPort+",target=8080", "swarm/hello:1")
	c.swarm("service", "create", "--name", "inside", "--mode", "global", "--constraint", "node.hostname!="+c.hosts[2].Name, "swarm/hello:1")
	var rows []psRow
	for _, service := range []string{"web", "inside"} { // The first is also on network ingress.
		some, err := c.ps(service)
		if err != nil {
			c.t.Fatal(err)
		}
		rows = append(rows, some...)
	}
	if len(rows) != 3 {
		c.t.Fatalf("tasks: got %v, want 3", rows)
	}
	var mu sync.Mutex // guards the two variables below
	var open []string
	tried := 0
	var g errgroup.Group
	for _, row := range rows {
		own := c.addresses(c.host(row.node))
		for _, to := range c.hosts {
			for _, addr := range c.addresses(to) {
				if to.Name != row.node && slices.Contains(own, addr) {
					continue // Each host has this address.
				}
				g.Go(func() error {
					reached, err := c.clusterPortsReached(row, to, addr)
					mu.Lock()
					defer mu.Unlock()
					tried += 4
					for _, port := range reached {
						open = append(open, fmt.Sprintf("from %s to %s %s %s", row.node, to.Name, addr, port))
					}
					return err
				})
			}
			g.Go(func() error {
				if err := c.inContainer(row, func() error { return connects(netip.AddrPortFrom(to.Address, 7000)) }); err != nil {
					return fmt.Errorf("a container on %s does not reach the published port of %s: %w", row.node, to.Name, err)
				}
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		c.t.Error(err)
	}
	c.t.Logf("a container reaches %d of %d cluster ports", len(open), tried)
	if len(open) > 0 {
		c.t.Errorf("a container reaches cluster ports:\n%s", strings.Join(open, "\n"))
	}
	c.attackLateAddresses(rows)
	c.swarm("service", "rm", "web", "inside")

	// Containers on a network with --host-access may reach these ports.
	c.swarm("network", "create", "--host-access", "ops")
	c.swarm("service", "create", "--name", "ops", "--network", "ops", "swarm/hello:1")
	for _, to := range c.hosts {
		reached, err := c.clusterPortsReached(c.running("ops"), to, to.Address)
		if err != nil || !slices.Equal(reached, []string{"2377/tcp", "7946/tcp", "7946/udp"}) {
			c.t.Errorf("a container on a network with host access reaches %v of %s: %v", reached, to.Name, err)
		}
	}
	c.swarm("service", "rm", "ops")
}

// attackLateAddresses gives a host more addresses while its session is open.
func (c *testCluster) attackLateAddresses(from []psRow) {
	to := c.hosts[2]
	for addr, bits := range map[netip.Addr]string{unusedAddress(to.Address): "/32", unusedAddress(to.Address6): "/128"} {
		cmd := exec.CommandContext(c.ctx, "nsenter", "--net="+to.Namespace, "ip", "addr", "add", addr.String()+bits, "dev", "eth0", "nodad")
		if text, err := cmd.CombinedOutput(); err != nil {
			c.t.Fatalf("%v: %s", err, text)
		}
		began := time.Now()
		for _, row := range from {
			if row.node == to.Name {
				continue
			}
			eventually.Nil(c.t, fmt.Sprintf("a container on %s is kept from %s, which %s has since its session began", row.node, addr, to.Name), func() error {
				reached, err := c.clusterPortsReached(row, to, addr)
				if err == nil && len(reached) > 0 {
					err = fmt.Errorf("it reaches %v", reached)
				}
				return err
			})
		}
		c.t.Logf("containers are kept from the late address %s within %s", addr, time.Since(began).Round(time.Millisecond))
		// The host joins again later. A host with several addresses would have to name one.
		if text, err := exec.CommandContext(c.ctx, "nsenter", "--net="+to.Namespace, "ip", "addr", "del", addr.String()+bits, "dev", "eth0").CombinedOutput(); err != nil {
			c.t.Fatalf("%v: %s", err, text)
		}
	}
}

// unusedAddress returns an address of the same network that no host has.
func unusedAddress(a netip.Addr) netip.Addr {
	b := a.AsSlice()
	b[len(b)-1] += 100
	out, _ := netip.AddrFromSlice(b)
	return out
}

// addresses returns the addresses of the host that containers can use.
func (c *testCluster) addresses(h dev.Host) (out []netip.Addr) {
	c.t.Helper()
	err := c.playground.Do(h.Name, func() error {
		all, err := net.InterfaceAddrs()
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
				out = append(out, p.Addr())
			}
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// inContainer runs fn in the network namespace of a task.
func (c *testCluster) inContainer(task psRow, fn func() error) error {
	ns, err := netns.Open(filepath.Join(c.host(task.node).RunDir, "netns", task.id))
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(fn)
}

// clusterPortsReached returns the cluster ports of a host's address that a task reaches.
func (c *testCluster) clusterPortsReached(from psRow, to dev.Host, addr netip.Addr) (reached []string, err error) {
	mark := fmt.Appendf(nil, "attack %x", randomBytes(8))
	heard, err := c.hears(to, addr.Is6(), mark)
	if err != nil {
		return nil, err
	}
	err = c.inContainer(from, func() error {
		for _, port := range []uint16{2377, 7946} {
			if connects(netip.AddrPortFrom(addr, port)) == nil {
				reached = append(reached, fmt.Sprintf("%d/tcp", port))
			}
		}
		for _, port := range []uint16{7946, 4789} {
			conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port)))
			if err != nil {
				continue // There is no route.
			}
			for range 3 {
				_, _ = conn.Write(mark) // The write may be refused. Only the datagrams that the host received count.
			}
			_ = conn.Close()
		}
		return nil
	})
	for _, port := range heard() {
		reached = append(reached, fmt.Sprintf("%d/udp", port))
	}
	return reached, err
}

// hears receives the datagrams that pass a host's firewall. It returns a function that reports
// which UDP ports received datagrams with the mark.
func (c *testCluster) hears(h dev.Host, v6 bool, mark []byte) (func() []int, error) {
	network := "ip4:udp"
	if v6 {
		network = "ip6:udp"
	}
	var conn net.PacketConn
	if err := c.playground.Do(h.Name, func() (err error) { conn, err = net.ListenPacket(network, ""); return err }); err != nil {
		return nil, err
	}
	return func() (ports []int) {
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		buf := make([]byte, 64<<10)
		for {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return ports
			}
			if port := int(buf[2])<<8 | int(buf[3]); n > 8 && bytes.HasPrefix(buf[8:n], mark) && !slices.Contains(ports, port) {
				ports = append(ports, port)
			}
		}
	}, nil
}

func connects(to netip.AddrPort) error {
	conn, err := net.DialTimeout("tcp", to.String(), time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

// attackByProbe has a manager probe ports of other hosts.
func (c *testCluster) attackByProbe() {
	conn := c.stranger("worker")
	for _, victim := range []struct {
		addr string
		port uint32
	}{
		{c.hosts[1].Address.String(), 2377},
		{"127.0.0.1", 2377},
		{"::1", 2377},
		{"169.254.1.1", 80},
		{"224.0.0.1", 80},
		{"255.255.255.255", 80},
		{"::ffff:127.0.0.1", 2377},
		{c.hosts[0].Address.String(), 2377},
	} {
		answer, err := askProbe(c.ctx, conn, victim.addr, victim.port)
		if err == nil {
			c.t.Errorf("a holder of a token had the manager try %s port %d: %v", victim.addr, victim.port, answer.In)
		} else if !errdefs.IsPermissionDenied(err) && !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
			c.t.Errorf("probe of %s port %d: %v; want that it is refused", victim.addr, victim.port, err)
		}
	}
	c.t.Run("many", func(t *testing.T) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		refused := 0
		for range 50 {
			wg.Go(func() {
				conn, err := c.tryStranger("worker")
				if err == nil {
					_, err = askProbe(c.ctx, conn, c.machine(false), 9)
				}
				if err != nil {
					mu.Lock()
					refused++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		t.Logf("50 probes at once: %d are refused", refused)
		if refused < 40 {
			t.Errorf("50 probes at once: %d are refused, want most of them", refused)
		}
	})
}

// stranger returns a connection of a caller that has only a join token, which it proves.
func (c *testCluster) stranger(role string) grpc.ClientConnInterface {
	c.t.Helper()
	conn, err := c.tryStranger(role)
	if err != nil {
		c.t.Fatal(err)
	}
	return conn
}

func (c *testCluster) tryStranger(role string) (grpc.ClientConnInterface, error) {
	text, err := c.run("join-token", "-q", role)
	if err != nil {
		return nil, err
	}
	token, err := pki.ParseToken(strings.TrimSpace(text))
	if err != nil {
		return nil, err
	}
	at := clusterPort(c.hosts[0])
	found, err := transport.PinnedBootstrap(c.ctx, at, token, time.Now())
	if err != nil {
		return nil, err
	}
	identity, err := transport.NewIdentity(pki.Credential{}, found.Bundle, time.Now)
	if err != nil {
		return nil, err
	}
	conn := transport.NewDialer(identity, nil).DialAddr(at)
	c.t.Cleanup(func() { _ = conn.Close() })
	return transport.Proving(conn, token), nil
}

// askProbe has a manager probe the connections to a host, and returns the result.
func askProbe(ctx context.Context, conn grpc.ClientConnInterface, addr string, port uint32) (*swarmv1.AdmissionProbe, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	stream, err := swarmv1.NewAdmissionClient(conn).Probe(ctx)
	if err != nil {
		return nil, err
	}
	_ = stream.Send(&swarmv1.AdmissionRequest{Nonce: randomBytes(16), Addr: addr, Port: port})
	if _, err := stream.Recv(); err != nil {
		return nil, err
	}
	_ = stream.Send(&swarmv1.AdmissionRequest{})
	return stream.Recv()
}
