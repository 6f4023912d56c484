package scenarios

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"swarm/dev"
	"swarm/scenarios/probe"
)

// TestAddressChanges gives a worker another address while its daemon is stopped, as DHCP does.
// Without any manual step the cluster must show the new address, other hosts must reach the
// worker's tasks by the mesh and by their network, and exec and logs must work.
func TestAddressChanges(t *testing.T) {
	if _, err := exec.LookPath("nsenter"); err != nil {
		skip(t, "the address of a host is changed with nsenter and ip")
	}
	t.Parallel()
	c := newTestClusterOf(t, binaryUnderTest(t), dev.Options{Nodes: 3, Managers: 1})
	c.swarm("network", "create", "app")
	c.swarm("service", "create", "--name", "web", "--mode", "global", "--network", "app", "--hostname", "at-{{.Node.Hostname}}",
		"--publish", "published="+meshPort+",target=8080", "swarm/hello:1")
	moving := c.hosts[2]
	if err := c.playground.Stop(c.ctx, moving.Name); err != nil {
		t.Fatal(err)
	}
	now := unusedAddress(moving.Address)
	c.readdress(moving, now)
	c.start(moving)

	c.eventually("the cluster knows the new address", func() error {
		got := strings.TrimSpace(c.swarm("node", "inspect", "--format", "{{.Status.Addr}}", moving.Name))
		if got != now.String() {
			return fmt.Errorf("node inspect says %q, want %s", got, now)
		}
		return nil
	})
	client := probe.New()
	defer client.Close()
	hello := "hello from at-" + moving.Name
	for _, at := range []string{c.hosts[0].Address.String(), c.hosts[1].Address.String(), now.String()} {
		c.eventually("the mesh at "+at+" reaches the task of "+moving.Name, func() error {
			text, err := client.Get("http://" + net.JoinHostPort(at, meshPort) + "/")
			if err == nil && !strings.Contains(text, hello) {
				client.Close() // The next request uses a new connection, which may lead to another task.
				err = fmt.Errorf("the answer is %q, want %q", text, hello)
			}
			return err
		})
	}
	tasks := map[string]string{} // by host
	rows, err := c.ps("web")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		tasks[r.node] = r.id
	}
	for from, to := range map[string]string{c.hosts[1].Name: moving.Name, moving.Name: c.hosts[1].Name} {
		c.eventually("the task of "+from+" reaches that of "+to, func() error {
			_, err := c.run("exec", tasks[from], "/app", "-get", "http://at-"+to+":8080/")
			return err
		})
	}
	if out := c.swarm("task", "logs", tasks[moving.Name]); !strings.Contains(out, "hello: up") {
		t.Errorf("logs of the task that moved: %q", out)
	}
	if out := c.swarm("doctor"); strings.Contains(out, moving.Address.String()) {
		t.Errorf("the doctor reports the former address:\n%s", out)
	}
}

// readdress replaces the address of a host.
func (c *testCluster) readdress(h dev.Host, to netip.Addr) {
	c.t.Helper()
	script := fmt.Sprintf(`set -e
		dev=$(ip -o -4 addr show to %[1]s | awk '{print $2; exit}')
		bits=$(ip -o -4 addr show to %[1]s | awk '{sub(".*/", "", $4); print $4; exit}')
		routes=$(ip -4 route show default)
		ip addr del %[1]s/$bits dev $dev
		ip addr add %[2]s/$bits dev $dev
		[ -z "$routes" ] || ip route replace $routes`, h.Address, to)
	if out, err := exec.CommandContext(c.ctx, "nsenter", "--net="+h.Namespace, "sh", "-c", script).CombinedOutput(); err != nil {
		c.t.Fatalf("give %s the address %s: %v: %s", h.Name, to, err, out)
	}
}
