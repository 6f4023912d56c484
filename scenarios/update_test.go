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

// updatePort is the published port of the service that is changed.
const updatePort = "7000"

// TestUpdateLosesNoRequest updates a service and rolls it back, scales it up and down, gives it new
// versions of secrets and configs in each way, and moves it off a host. Meanwhile clients send
// requests through its address and its name from containers, and from outside through every host.
// Their requests must not fail.
func TestUpdateLosesNoRequest(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	t.Parallel()
	c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 3, Managers: 3})
	drained := c.hosts[2].Name
	c.swarm("network", "create", "red")
	c.prober("client", "--mode", "global", "--network", "red", "--constraint", "node.hostname!="+drained)
	clients := c.waitMembers("red", 2)
	ways := map[string]string{"by-signal": "signal=WINCH", "by-exec": "exec=/app -exit-after 1ms -listen=", "by-nothing": "none", "by-restart": "restart"}
	var files []string
	for name, on := range ways {
		c.swarm("secret", "create", "--generate", "16", name)
		c.swarm("config", "create", name, "/etc/hostname")
		files = append(files, "--secret", "source="+name+",on-update="+on, "--config", "source="+name+",target=/etc/"+name+",on-update="+on)
	}
	create := append([]string{"service", "create"}, files...)
	c.swarm(append(create, "--name", "web", "--replicas", "4", "--network", "red", "--publish", "published="+updatePort+",target=8080",
		"--health-tcp", "127.0.0.1:8080", "--health-start-interval", "100ms", "--health-start-period", "30s",
		"--update-monitor", "500ms", "swarm/hello:1")...)
	o := c.ask(clients.members)
	for _, change := range [][]string{
		{"service", "update", "--force", "--update-order", "start-first", "web"},
		{"service", "update", "--force", "web"},
		{"service", "update", "--force", "--update-order", "stop-first", "web"},
		{"service", "rollback", "web"},
		{"secret", "update", "--generate", "16", "by-signal"},
		{"secret", "update", "--generate", "16", "by-exec"},
		{"secret", "update", "--generate", "16", "by-nothing"},
		{"secret", "update", "--generate", "16", "by-restart"},
		{"config", "update", "by-signal", "/etc/passwd"},
		{"config", "update", "by-exec", "/etc/passwd"},
		{"config", "update", "by-nothing", "/etc/passwd"},
		{"config", "update", "by-restart", "/etc/passwd"},
		{"service", "scale", "web=8"},
		{"service", "scale", "web=2"},
		{"service", "scale", "web=3"}, // one task on each host
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

// oneIn is the number of requests for each one that may fail. The kernel looks a packet up twice if
// rules change while it judges the packet. A virtual machine may pause in between for more than one
// change, so that the second lookup fails too.
const oneIn = 5000

// ask starts requests for the page of web, in containers and from outside.
func (c *testCluster) ask(from []member) *observers {
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
