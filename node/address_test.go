package node

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// host has the addresses of one that is on two networks, without either interface being preferred.
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
		want        string // address and port, or what an error says
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
		{"none", "", host(nil), "this host has no address that others could reach"},
		{"no interface", "eth9", two, `"eth9" is neither an IP address nor an interface`},
		{"unspecified", "0.0.0.0", two, "cannot reach an unspecified address"},
		{"port 0", "10.0.0.1:0", two, `port "0" is not in 1-65535`},
		{"port too large", "10.0.0.1:65536", two, `port "65536" is not in 1-65535`},
		{"port not a number", "10.0.0.1:http", two, `port "http" is not in 1-65535`},
		{"too many colons", "10.0.0.1:1:2", two, "want HOST or HOST:PORT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, port, err := advertise(c.given, DefaultPort, c.host)
			if err != nil {
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("advertise(%q): %v, want an invalid argument that says %q", c.given, err, c.want)
				}
				return
			}
			if got := addr + " " + itoa(port); got != c.want {
				t.Errorf("advertise(%q) = %s, want %s", c.given, got, c.want)
			}
		})
	}
}

func TestPlace_ListensWhereItIsTold(t *testing.T) {
	n := &Node{addrs: host(map[string][]string{"eth0": {"10.0.0.1"}, "eth1": {"10.0.1.1"}})}
	for _, c := range []struct{ advertise, listen, want string }{
		{"eth0", "", " 0 10.0.0.1:2377"},
		{"10.0.0.1:4000", "", " 0 10.0.0.1:4000"},
		{"10.0.0.1", "0.0.0.0:3000", "0.0.0.0 0 10.0.0.1:3000"},
		{"192.0.2.7:4000", "10.0.0.1:3000", "10.0.0.1 3000 192.0.2.7:4000"}, // behind a port forwarding
		{"eth0", "eth1", "10.0.1.1 0 10.0.0.1:2377"},
		{"127.0.0.1", "", " 0 127.0.0.1:2377"},
	} {
		m, err := n.place(c.advertise, c.listen, "", 0)
		if err != nil {
			t.Errorf("place(%q, %q): %v", c.advertise, c.listen, err)
			continue
		}
		if got := m.ListenAddr + " " + itoa(m.ListenPort) + " " + (Peer{Addr: m.Addr, Port: m.Port}).HostPort(); got != c.want {
			t.Errorf("place(%q, %q) = %q, want %q", c.advertise, c.listen, got, c.want)
		}
	}
	_, err := n.place("192.0.2.7", "0.0.0.0:2377", "", 0)
	if want := "192.0.2.7 is none of this host's (10.0.0.1, 10.0.1.1)"; !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("another host's address: got %v, want %q", err, want)
	}
	one := &Node{addrs: host(map[string][]string{"eth0": {"10.0.0.1"}})}
	if m, err := one.place("192.0.2.7", "", "", 0); err != nil || m.Addr != "192.0.2.7" {
		t.Errorf("the only address is behind NAT: %+v, %v", m, err)
	}
	if _, err := n.place("eth0", "nowhere", "", 0); !errdefs.IsInvalidArgument(err) {
		t.Errorf("listen on an interface that is not: %v", err)
	}
	if _, err := n.place("eth0", "", "", 70000); !errdefs.IsInvalidArgument(err) {
		t.Errorf("gossip port 70000: %v", err)
	}
}

func TestBound_IsReachedFromWithin(t *testing.T) {
	for given, want := range map[string]string{
		"0.0.0.0:2377": "127.0.0.1:2377", "[::]:2377": "127.0.0.1:2377", "10.0.0.1:3000": "10.0.0.1:3000", "[2001:db8::1]:2377": "[2001:db8::1]:2377",
	} {
		if got := bound(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(given))); got != want {
			t.Errorf("bound(%s) = %s, want %s", given, got, want)
		}
	}
}

func TestInward(t *testing.T) {
	for name, want := range map[string]bool{
		"eth0": false, "enp1s0": false, "bond0": false, "wg0": false, "br0": false, "br-lan": false, "br-ex": false, "vmbr0": false,
		"swarm0": true, "swmesh": true, "docker0": true, "docker_gwbridge": true, "br-0123456789ab": true, "veth12ab": true,
		"vethwe-bridge": true, "cni0": true, "podman1": true,
	} {
		if got := inward(name); got != want {
			t.Errorf("%s: got %t, want %t", name, got, want)
		}
	}
}
