package scenarios

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"swarm/dev"
	"swarm/scenarios/traffic"
)

// updatePort is where every host answers for the service that is changed.
const updatePort = "7000"

// TestUpdateLosesNoRequest: a service is updated, made larger and smaller, and moved off a host, while clients ask it through
// its address and its name from containers, and from outside through every host: none of them is failed.
func TestUpdateLosesNoRequest(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	t.Parallel()
	c := newCrowdOf(t, binaryUnderTest(t), dev.Options{Nodes: 3, Managers: 3})
	drained := c.hosts[2].Name
	c.swarm("network", "create", "red")
	c.prober("client", "--mode", "global", "--network", "red", "--constraint", "node.hostname!="+drained)
	clients := c.settled("red", 2)
	c.swarm("service", "create", "--name", "web", "--replicas", "4", "--network", "red", "--publish", "published="+updatePort+",target=8080",
		"--health-tcp", "127.0.0.1:8080", "--health-start-interval", "100ms", "--health-start-period", "30s",
		"--update-monitor", "500ms", "swarm/hello:1")
	o := c.ask(clients.members)
	for _, change := range [][]string{
		{"service", "update", "--force", "--update-order", "start-first", "web"},
		{"service", "update", "--force", "web"},
		{"service", "update", "--force", "--update-order", "stop-first", "web"},
		{"service", "scale", "web=8"},
		{"service", "scale", "web=2"},
		{"service", "scale", "web=3"}, // One on each host.
		{"node", "update", "--availability", "drain", drained},
	} {
		began := time.Now()
		c.swarm(change...)
		t.Logf("%s %s: %v", began.Format("15:04:05.000"), strings.Join(change, " "), time.Since(began).Round(time.Millisecond))
	}
	c.eventually("web has left "+drained, func() error {
		rows, err := c.ps("web")
		running := slices.DeleteFunc(rows, func(r psRow) bool { return !strings.HasPrefix(r.state, "Running") })
		if err == nil && (len(running) != 3 || slices.ContainsFunc(running, func(r psRow) bool { return r.node == drained })) {
			err = fmt.Errorf("tasks: %v", running)
		}
		return err
	})
	asked, failures := o.seen()
	t.Logf("%d requests, failed: %q", asked, failures)
	if len(failures) > asked/oneIn {
		t.Errorf("%d of %d requests failed: %q", len(failures), asked, failures)
	}
}

// oneIn so many requests may fail: a packet that the kernel judges while rules change is looked up twice, but a virtual
// machine may stand still in between, for more than one change.
const oneIn = 5000

// ask begins to ask web for its page, in containers and from outside.
func (c *crowd) ask(from []member) *observers {
	c.t.Helper()
	const every = 20 * time.Millisecond
	watch := func(name, kind, address string) traffic.Watch {
		return traffic.Watch{Name: name, Kind: kind, Target: traffic.Target{Address: address}, Every: every}
	}
	o := c.observe("update", from,
		watch("VIP new", "get", "web:8080"), watch("VIP kept", "keep", "web:8080"), watch("name new", "get", "tasks.web:8080"))
	for _, h := range c.hosts {
		at := net.JoinHostPort(h.Address.String(), updatePort)
		o.watchOutside("mesh new "+h.Name, watch("", "get", at))
		o.watchOutside("mesh kept "+h.Name, watch("", "keep", at))
	}
	return o
}
