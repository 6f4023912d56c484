package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"swarm/dev"
	"swarm/scenarios/traffic"
)

// echoPort is the port on which test containers echo, over TCP and UDP.
const echoPort = "9000"

// meshPort is the published port of the service web, on which every host answers.
const meshPort = "7000"

// TestOverlay tests the overlay networks between the containers of five hosts.
func TestOverlay(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	t.Parallel()
	c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 5, Managers: 3, IPv6: true})
	for _, step := range []struct {
		name string
		run  func(*testing.T, *testCluster)
	}{
		{"pairs", testPairs},
		{"kills", testKills},
		{"clients", testClients},
		{"moved", testMoved},
		{"full", testFull},
		{"gossip blocked", testGossipBlocked},
		{"cut off", testCutOff},
		{"quorum lost", testQuorumLost},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, c.in(t)) }) {
			return // A later step would fail for the same reason and hide it.
		}
	}
}

// in returns the cluster with the testing.T of a subtest.
func (c *testCluster) in(t *testing.T) *testCluster {
	sub := *c
	sub.t = t
	return &sub
}

// member is a task on a network.
type member struct {
	id, name, service, node string
	addresses               []string
	traffic.Client
}

// hostname returns the hostname of the task's container.
func (m member) hostname() string { return m.id[:12] }

// networkMembers has the tasks on a network and the addresses of its services.
type networkMembers struct {
	members []member
	vips    map[string][]string // by service
}

// of returns the tasks of one service.
func (p networkMembers) of(service string) []member {
	return slices.DeleteFunc(slices.Clone(p.members), func(m member) bool { return m.service != service })
}

// prober starts a service of test containers. Their nodes publish the HTTP port through which the
// test gives them orders.
func (c *testCluster) prober(name string, args ...string) {
	c.t.Helper()
	create := []string{
		"service", "create", "--detach", "--name", name, "--publish", "mode=host,target=8080",
		"--health-tcp", "127.0.0.1:" + echoPort, "--health-start-interval", "100ms", "--health-start-period", "30s",
	}
	c.swarm(slices.Concat(create, args, []string{"swarm/hello:1", "-echo", ":" + echoPort})...)
}

// waitMembers waits until a network has n ready tasks, of all its services together.
func (c *testCluster) waitMembers(network string, n int) networkMembers {
	c.t.Helper()
	c.eventually("tasks on network "+network, func() error {
		if p, err := c.findMembers(network); err != nil || len(p.members) != n {
			return fmt.Errorf("ready tasks: got %d, want %d: %v %w", len(p.members), n, p.members, err)
		}
		return nil
	})
	return c.members(network)
}

// members returns the ready tasks on a network. It retries until the query succeeds.
func (c *testCluster) members(network string) networkMembers {
	c.t.Helper()
	var p networkMembers
	c.eventually("list the tasks on network "+network, func() (err error) {
		p, err = c.findMembers(network)
		return err
	})
	return p
}

// listed is the output of `network inspect --verbose`.
type listed struct {
	Services map[string]struct {
		VIPs  []string
		Tasks []struct {
			Name, ID, Node string
			Addresses      []string
			Ready          bool
		}
	}
}

// findMembers queries the tasks on a network. It uses several queries, so the result may be
// inconsistent while tasks start and stop.
func (c *testCluster) findMembers(network string) (networkMembers, error) {
	out := networkMembers{vips: map[string][]string{}}
	text, err := c.run("network", "inspect", "--verbose", network)
	if err != nil {
		return out, err
	}
	var found []listed
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		return out, err
	}
	for service, s := range found[0].Services {
		out.vips[service] = hostParts(s.VIPs)
		rows, err := c.ps(service)
		if err != nil {
			return out, err
		}
		for _, task := range s.Tasks {
			i := slices.IndexFunc(rows, func(r psRow) bool { return r.id == task.ID })
			if !task.Ready || i < 0 {
				continue
			}
			at, err := c.findEndpoint(rows[i])
			if err != nil {
				return out, err
			}
			out.members = append(out.members, member{
				id: task.ID, name: task.Name, service: service, node: task.Node, addresses: hostParts(task.Addresses),
				Client: traffic.Client{URL: at},
			})
		}
	}
	return out, nil
}

// hostParts removes the prefix lengths from addresses.
func hostParts(prefixes []string) []string {
	var out []string
	for _, text := range prefixes {
		address, _, _ := strings.Cut(text, "/")
		out = append(out, address)
	}
	return out
}

// expected is a target, with the containers that may answer there.
type expected struct {
	traffic.Target
	hosts []string // hostnames; empty: nothing may answer
}

// echoes returns the targets at an address, over TCP and UDP, which the given members may answer.
func echoes(address string, from ...member) []expected {
	var hosts []string
	for _, m := range from {
		hosts = append(hosts, m.hostname())
	}
	at := net.JoinHostPort(address, echoPort)
	return []expected{{traffic.Target{Network: "tcp", Address: at}, hosts}, {traffic.Target{Network: "udp", Address: at}, hosts}}
}

// allTargets returns every name and every address of the tasks and services on a network.
func allTargets(p networkMembers) []expected {
	var out []expected
	for _, m := range p.members {
		out = append(out, echoes(m.name, m)...)
		for _, a := range m.addresses {
			out = append(out, echoes(a, m)...)
		}
	}
	for service, vips := range p.vips {
		out = append(out, echoes(service, p.of(service)...)...)
		out = append(out, echoes("tasks."+service, p.of(service)...)...)
		for _, vip := range vips {
			out = append(out, echoes(vip, p.of(service)...)...)
		}
	}
	return out
}

// reach has every member try every target, and returns the number of tries.
func (c *testCluster) reach(from []member, want []expected) int {
	c.t.Helper()
	for _, problem := range c.unreached(from, want) {
		c.t.Error(problem)
	}
	return len(from) * len(want)
}

// eventuallyReach is reach for tasks that have just started. It retries, because the hosts learn of
// new tasks with a delay.
func (c *testCluster) eventuallyReach(from []member, want []expected) int {
	c.t.Helper()
	c.eventually("all targets are reached", func() error {
		if problems := c.unreached(from, want); len(problems) > 0 {
			return fmt.Errorf("%d problems: %s", len(problems), problems[0])
		}
		return nil
	})
	return len(from) * len(want)
}

// eventuallyAllReach waits until a network has n tasks and each of them reaches all others.
func (c *testCluster) eventuallyAllReach(network string, n int) {
	c.t.Helper()
	c.eventually("tasks reach each other on network "+network, func() error {
		p, err := c.findMembers(network)
		if err != nil || len(p.members) != n {
			return fmt.Errorf("%d tasks, want %d: %w", len(p.members), n, err)
		}
		if problems := c.unreached(p.members, allTargets(p)); len(problems) > 0 {
			return fmt.Errorf("%d problems: %s", len(problems), problems[0])
		}
		return nil
	})
}

// unreached returns a description of each target that did not answer as expected.
func (c *testCluster) unreached(from []member, want []expected) []string {
	problems := make([][]string, len(from))
	var all sync.WaitGroup
	for i, m := range from {
		all.Go(func() { problems[i] = c.unreachedFrom(m, want) })
	}
	all.Wait()
	return slices.Concat(problems...)
}

func (c *testCluster) unreachedFrom(m member, want []expected) []string {
	targets := make([]traffic.Target, 0, len(want))
	for _, w := range want {
		targets = append(targets, w.Target)
	}
	answers, err := m.Reach(c.ctx, targets...)
	if err != nil {
		return []string{fmt.Sprintf("%s on %s: %v", m.name, m.node, err)}
	}
	var problems []string
	for i, a := range answers {
		wrong := ""
		switch w := want[i]; {
		case a.Err == "" && !slices.Contains(w.hosts, a.Host):
			wrong = fmt.Sprintf("%s answers, want one of %v", a.Host, w.hosts)
		case a.Err != "" && len(w.hosts) > 0:
			wrong = a.Err
		case a.Err == "" && !slices.Contains(m.addresses, a.Client):
			wrong = fmt.Sprintf("seen as %s, is %v", a.Client, m.addresses)
		}
		if wrong != "" {
			problems = append(problems, fmt.Sprintf("%s on %s: %s %s: %s", m.name, m.node, a.Network, a.Address, wrong))
		}
	}
	return problems
}

// testPairs checks that each two tasks on a network reach each other by every name and address.
// Tasks on another network must not reach them, even if it has the same subnet.
func testPairs(t *testing.T, c *testCluster) {
	for _, network := range []string{"red", "blue"} {
		c.swarm("network", "create", "--ipv6", "--subnet", "10.50.0.0/24", network)
	}
	c.swarm("network", "create", "--internal", "shut")
	c.prober("web", "--mode", "global", "--network", "red", "--publish", "published="+meshPort+",target="+echoPort)
	c.prober("api", "--replicas", strconv.Itoa(len(c.hosts)), "--network", "red")
	c.prober("other", "--mode", "global", "--network", "blue")
	c.prober("quiet", "--replicas", "2", "--network", "shut")

	n, tries := len(c.hosts), 0
	red, blue, shut := c.waitMembers("red", 2*n), c.waitMembers("blue", n), c.waitMembers("shut", 2)
	for _, p := range []networkMembers{red, blue, shut} {
		tries += c.eventuallyReach(p.members, allTargets(p))
	}
	t.Logf("%d tries between %d, %d and %d tasks", tries, len(red.members), len(blue.members), len(shut.members))
	c.isolated(red, blue, shut)
}

// isolated checks that tasks do not reach tasks on another network, and that tasks on an internal
// network reach nothing outside of it.
func (c *testCluster) isolated(red, blue, shut networkMembers) {
	foreign := slices.Concat(echoes("web"), echoes(red.members[0].name))
	for _, m := range red.members {
		if a := m.addresses[0]; !owned(blue, a) {
			foreign = append(foreign, echoes(a)...)
		}
	}
	c.reach(blue.members, foreign)
	for _, m := range red.members {
		foreign = append(foreign, echoes(m.addresses[0])...)
	}
	var hidden []expected
	for _, m := range shut.members {
		hidden = append(hidden, echoes(m.addresses[0])...)
	}
	c.reach(red.members, hidden)

	machine := net.JoinHostPort(c.machine(false), echoPort)
	ctx, cancel := context.WithCancel(c.ctx)
	ended := make(chan error)
	go func() { ended <- traffic.Echo(ctx, machine) }()
	defer func() { cancel(); <-ended }()
	c.eventually("the machine echoes", func() error {
		if a := traffic.Reach(ctx, traffic.Dial, traffic.Target{Network: "tcp", Address: machine}); a.Err != "" {
			return errors.New(a.Err)
		}
		return nil
	})
	c.leaves(red.members[:2], machine, true)
	c.leaves(shut.members, machine, false)
	foreign = foreign[:0]
	for _, h := range c.hosts {
		foreign = append(foreign, expected{traffic.Target{Network: "tcp", Address: net.JoinHostPort(h.Address.String(), meshPort)}, nil})
	}
	c.reach(shut.members, foreign)
}

// leaves checks whether the members reach a server outside of the cluster.
func (c *testCluster) leaves(from []member, address string, want bool) {
	c.t.Helper()
	for _, m := range from {
		answers, err := m.Reach(c.ctx, traffic.Target{Network: "tcp", Address: address}, traffic.Target{Network: "udp", Address: address})
		if err != nil {
			c.t.Fatal(err)
		}
		for _, a := range answers {
			if got := a.Err == ""; got != want {
				c.t.Errorf("%s reaches %s outside (%s): %v (%s), want %v", m.name, address, a.Network, got, a.Err, want)
			}
		}
	}
}

// owned reports whether a task or a service on the network has the address.
func owned(p networkMembers, address string) bool {
	return slices.ContainsFunc(p.members, func(m member) bool { return slices.Contains(m.addresses, address) }) ||
		slices.ContainsFunc(slices.Concat(slices.Collect(maps.Values(p.vips))...), func(v string) bool { return v == address })
}
