package node

import (
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// host returns the addresses of a host on two networks. Neither interface is preferred.
func host(named map[string][]string) hostAddrs {
	return func() (map[string][]netip.Addr, error) {
		all := map[string][]netip.Addr{}
		for name, addrs := range named {
			for _, a := range addrs {
				all[name] = append(all[name], netip.MustParseAddr(a))
			}
		}
		return all, nil
	}
}

func TestAdvertise(t *testing.T) {
	one := host(map[string][]string{"eth0": {"10.0.0.1", "2001:db8::1", "2001:db8::2"}})
	two := host(map[string][]string{"eth0": {"10.0.0.1"}, "eth1": {"192.168.1.1"}})
	six := host(map[string][]string{"eth0": {"2001:db8::1"}})
	for _, c := range []struct {
		name, given string
		host        hostAddrs
		want        string // address and port, or a part of the error
	}{
		{"the only IPv4 address", "", one, "10.0.0.1 2377"},
		{"the only address, IPv6", "", six, "2001:db8::1 2377"},
		{"an address", "192.0.2.7", two, "192.0.2.7 2377"},
		{"an address and a port", "192.0.2.7:4000", two, "192.0.2.7 4000"},
		{"IPv6", "2001:db8::7", two, "2001:db8::7 2377"},
		{"IPv6 in brackets", "[2001:db8::7]", two, "2001:db8::7 2377"},
		{"IPv6 and a port", "[2001:db8::7]:4000", two, "2001:db8::7 4000"},
		{"an interface", "eth1", two, "192.168.1.1 2377"},
		{"an interface and a port", "eth1:4000", two, "192.168.1.1 4000"},
		{"several", "", two, "10.0.0.1 (eth0), 192.168.1.1 (eth1): choose one with --advertise-addr"},
		{"none", "", host(nil), "this host has no address that other nodes can reach"},
		{"no interface", "eth9", two, `"eth9" is neither an IP address nor an interface`},
		{"unspecified", "0.0.0.0", two, "cannot reach an unspecified address"},
		{"port 0", "10.0.0.1:0", two, `port "0" is not in 1-65535`},
		{"port too large", "10.0.0.1:65536", two, `port "65536" is not in 1-65535`},
		{"port not a number", "10.0.0.1:http", two, `port "http" is not in 1-65535`},
		{"too many colons", "10.0.0.1:1:2", two, "want HOST or HOST:PORT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, port, err := parseAdvertiseAddr(c.given, DefaultPort, c.host)
			if err != nil {
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("parseAdvertiseAddr(%q): %v, want an invalid argument that says %q", c.given, err, c.want)
				}
				return
			}
			if got := addr + " " + itoa(port); got != c.want {
				t.Errorf("parseAdvertiseAddr(%q) = %s, want %s", c.given, got, c.want)
			}
		})
	}
}

func TestResolveAddresses_ListenAddress(t *testing.T) {
	n := &Node{addrs: host(map[string][]string{"eth0": {"10.0.0.1"}, "eth1": {"10.0.1.1"}})}
	for _, c := range []struct{ advertise, listen, want string }{
		{"eth0", "", " 0 10.0.0.1:2377"},
		{"10.0.0.1:4000", "", " 0 10.0.0.1:4000"},
		{"10.0.0.1", "0.0.0.0:3000", "0.0.0.0 0 10.0.0.1:3000"},
		{"192.0.2.7:4000", "10.0.0.1:3000", "10.0.0.1 3000 192.0.2.7:4000"}, // behind port forwarding
		{"eth0", "eth1", "10.0.1.1 0 10.0.0.1:2377"},
		{"127.0.0.1", "", " 0 127.0.0.1:2377"},
	} {
		m, err := n.resolveAddresses(c.advertise, c.listen, "", 0)
		if err != nil {
			t.Errorf("resolveAddresses(%q, %q): %v", c.advertise, c.listen, err)
			continue
		}
		if got := m.ListenAddr + " " + itoa(m.ListenPort) + " " + (Peer{Addr: m.Addr, Port: m.Port}).HostPort(); got != c.want {
			t.Errorf("resolveAddresses(%q, %q) = %q, want %q", c.advertise, c.listen, got, c.want)
		}
	}
	_, err := n.resolveAddresses("192.0.2.7", "0.0.0.0:2377", "", 0)
	if want := "192.0.2.7 is not an address of this host (10.0.0.1, 10.0.1.1)"; !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("another host's address: got %v, want %q", err, want)
	}
	one := &Node{addrs: host(map[string][]string{"eth0": {"10.0.0.1"}})}
	if m, err := one.resolveAddresses("192.0.2.7", "", "", 0); err != nil || m.Addr != "192.0.2.7" {
		t.Errorf("the only address is behind NAT: %+v, %v", m, err)
	}
	if _, err := n.resolveAddresses("eth0", "nowhere", "", 0); !errdefs.IsInvalidArgument(err) {
		t.Errorf("listen on an interface that is not: %v", err)
	}
	if _, err := n.resolveAddresses("eth0", "", "", 70000); !errdefs.IsInvalidArgument(err) {
		t.Errorf("gossip port 70000: %v", err)
	}
}

func TestLocalDialAddr(t *testing.T) {
	for given, want := range map[string]string{
		"0.0.0.0:2377": "127.0.0.1:2377", "[::]:2377": "127.0.0.1:2377", "10.0.0.1:3000": "10.0.0.1:3000", "[2001:db8::1]:2377": "[2001:db8::1]:2377",
	} {
		if got := localDialAddr(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(given))); got != want {
			t.Errorf("localDialAddr(%s) = %s, want %s", given, got, want)
		}
	}
}

func TestIsContainerInterface(t *testing.T) {
	for name, want := range map[string]bool{
		"eth0": false, "enp1s0": false, "bond0": false, "wg0": false, "br0": false, "br-lan": false, "br-ex": false, "vmbr0": false,
		"swarm0": true, "swmesh": true, "docker0": true, "docker_gwbridge": true, "br-0123456789ab": true, "veth12ab": true,
		"vethwe-bridge": true, "cni0": true, "podman1": true,
	} {
		if got := isContainerInterface(name); got != want {
			t.Errorf("%s: got %t, want %t", name, got, want)
		}
	}
}

// The node uses the new address of the interface that had the old one. An address that NAT forwards
// to the node is kept.
func TestUpdateAddresses(t *testing.T) {
	for _, c := range []struct {
		name               string
		advertise, data    string
		before, after      map[string][]string
		addr, dataPath     string
		listen, wantListen string
	}{
		{
			name: "another lease", before: map[string][]string{"eth0": {"10.0.0.1"}}, after: map[string][]string{"eth0": {"10.0.0.9"}},
			addr: "10.0.0.9", dataPath: "10.0.0.9",
		},
		{
			name: "the same, and one more", before: map[string][]string{"eth0": {"10.0.0.1"}}, after: map[string][]string{"eth0": {"10.0.0.1"}, "eth1": {"10.1.0.1"}},
			addr: "10.0.0.1", dataPath: "10.0.0.1",
		},
		{
			name: "an interface of several", advertise: "eth0", data: "eth1", listen: "eth0",
			before: map[string][]string{"eth0": {"10.0.0.1"}, "eth1": {"10.1.0.1"}}, after: map[string][]string{"eth0": {"10.0.0.9"}, "eth1": {"10.1.0.9"}},
			addr: "10.0.0.9", dataPath: "10.1.0.9", wantListen: "10.0.0.9",
		},
		{
			name: "given, behind NAT", advertise: "192.0.2.7", before: map[string][]string{"eth0": {"10.0.0.1"}}, after: map[string][]string{"eth0": {"10.0.0.9"}},
			addr: "192.0.2.7", dataPath: "192.0.2.7",
		},
		{
			name: "given, of an interface", advertise: "10.0.0.1", before: map[string][]string{"eth0": {"10.0.0.1"}, "eth1": {"10.1.0.1"}},
			after: map[string][]string{"eth0": {"10.0.0.9"}, "eth1": {"10.1.0.1"}}, addr: "10.0.0.9", dataPath: "10.0.0.9",
		},
		{
			name: "no network yet", before: map[string][]string{"eth0": {"10.0.0.1"}}, after: nil,
			addr: "10.0.0.1", dataPath: "10.0.0.1",
		},
		{
			name: "several to choose from", before: map[string][]string{"eth0": {"10.0.0.1"}}, after: map[string][]string{"eth0": {"10.0.0.9"}, "eth1": {"10.1.0.9"}},
			addr: "10.0.0.1", dataPath: "10.0.0.1",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := &Node{addrs: host(c.before), disk: disk{dir: t.TempDir()}, deps: Deps{Log: slog.New(slog.NewTextHandler(t.Output(), nil))}}
			m, err := n.resolveAddresses(c.advertise, c.listen, c.data, 0)
			if err != nil {
				t.Fatal(err)
			}
			m.NodeID, m.ClusterID = "n1", "c1"
			m.Managers = []Peer{{NodeID: "n1", Addr: m.Addr}, {NodeID: "n2", Addr: "10.0.0.2"}}
			n.addrs = host(c.after)
			if err := n.updateAddresses(&m); err != nil {
				t.Fatal(err)
			}
			if m.Addr != c.addr || m.DataPathAddr != c.dataPath || m.ListenAddr != c.wantListen || m.Managers[0].Addr != c.addr || m.Managers[1].Addr != "10.0.0.2" {
				t.Errorf("got %+v, want address %s, data path %s, listening on %q", m, c.addr, c.dataPath, c.wantListen)
			}
			if moved, err := n.disk.load(); err != nil || (moved != nil) != (c.addr != "10.0.0.1" && c.advertise != "192.0.2.7") || moved != nil && moved.Addr != c.addr {
				t.Errorf("on the disk: %+v, %v", moved, err)
			}
		})
	}
}
