package scenarios

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"swarm/dev"
)

// bulk is a transfer, in bytes, that is large enough to hang if a packet exceeds the MTU of the
// path.
const bulk = 16 << 20

// TestUnderlay tests clusters on hosts and underlay networks with settings that occur in practice.
func TestUnderlay(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	for _, one := range []struct {
		name    string
		options dev.Options
		prepare func(*testCluster)
	}{
		{"small packets between strict hosts with dockerd", dev.Options{MTU: 1400, IPv6: true}, func(c *testCluster) { c.strict(); c.dockerd() }},
		{"large packets over IPv6 alone", dev.Options{MTU: 9000, Advertise6: true}, func(c *testCluster) { c.noIPv4() }},
	} {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel()
			one.options.Nodes, one.options.Managers = 2, 1
			c := newTestClusterOf(t, binaryUnderTest(t), one.options)
			one.prepare(c)
			c.checkTraffic()
		})
	}
}

// checkTraffic tests names, service addresses, ports published on all nodes and connections to the
// outside, with small and large transfers.
func (c *testCluster) checkTraffic() {
	c.t.Helper()
	c.swarm("network", "create", "--ipv6", "red")
	c.prober("web", "--mode", "global", "--network", "red", "--publish", "published="+meshPort+",target="+echoPort)
	c.prober("files", "--network", "red", "--constraint", "node.hostname=="+c.hosts[1].Name, "--publish", "published=7001,target=8080")
	red := c.waitMembers("red", len(c.hosts)+1)
	c.eventuallyReach(red.members, allTargets(red))
	for _, m := range red.of("web") {
		if n, err := m.Fetch(c.ctx, fmt.Sprintf("http://files:8080/bytes/%d", bulk)); err != nil || n != bulk {
			c.t.Errorf("%s fetches through a service address: got %d bytes, %v, want %d", m.name, n, err, bulk)
		}
	}
	for _, h := range c.hosts {
		for _, at := range []string{h.Address.String(), h.Address6.String()} {
			c.download(fmt.Sprintf("http://%s/bytes/%d", net.JoinHostPort(at, "7001"), bulk))
		}
	}
	c.swarm("service", "rm", "web", "files")
}

// download fetches a page of the published service from this machine, once the host answers for the
// service.
func (c *testCluster) download(url string) {
	c.t.Helper()
	var resp *http.Response
	c.eventually(url, func() (err error) {
		resp, err = http.Get(url)
		return err
	})
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != bulk {
		c.t.Errorf("get %s: got %d bytes, %v, want %d", url, n, err, bulk)
	}
}

// strict turns on reverse path filtering, as some distributions do: the host drops a packet if the
// answer would leave through another interface.
func (c *testCluster) strict() {
	c.onHosts(func() error {
		for _, name := range []string{"all", "default", "eth0"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte("1"), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}

// docker has the nftables rules that dockerd adds to a host.
const docker = `
table ip filter {
	chain DOCKER-USER { return; }
	chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }
}
table ip6 filter {
	chain DOCKER-USER { return; }
	chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }
}`

// dockerd adds dockerd's rules to the hosts, which drop all other forwarded packets.
func (c *testCluster) dockerd() {
	c.t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		c.t.Log("no nft here: forwarding is left as it is")
		return
	}
	c.rules(docker)
}

// rules loads nftables rules on every host.
func (c *testCluster) rules(text string) {
	c.t.Helper()
	for _, h := range c.hosts {
		file := c.t.TempDir() + "/rules.nft"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			c.t.Fatal(err)
		}
		if out, err := exec.CommandContext(c.ctx, "nsenter", "--net="+h.Namespace, "nft", "-f", file).CombinedOutput(); err != nil {
			c.t.Fatalf("%s: %v: %s", h.Name, err, out)
		}
	}
}

// noIPv4 blocks IPv4 between the hosts, so that they reach each other only over IPv6. This machine
// still reaches them over IPv4.
func (c *testCluster) noIPv4() {
	c.t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		c.t.Log("no nft here: hosts reach each other by IPv4 too")
		return
	}
	var hosts []string
	for _, h := range c.hosts {
		hosts = append(hosts, h.Address.String())
	}
	set := "{ " + strings.Join(hosts, ", ") + " }"
	c.rules(fmt.Sprintf(`
table ip no-ipv4 {
	chain out { type filter hook output priority -400; oifname eth0 ip saddr %s ip daddr %s drop; }
}`, set, set))
}

func (c *testCluster) onHosts(do func() error) {
	c.t.Helper()
	for _, h := range c.hosts {
		if err := c.playground.Do(h.Name, do); err != nil {
			c.t.Fatalf("%s: %v", h.Name, err)
		}
	}
}
