//go:build linux

package mesh_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"swarm/overlay/bridge"
	"swarm/overlay/netns"
)

// The client connects to host n1, and the backend is there or on n2. The test prints the client
// address that the backend sees.
func TestClientAddress(t *testing.T) {
	for _, rpFilter := range []string{"0", "1"} {
		t.Run("rp_filter="+rpFilter, func(t *testing.T) {
			w := newWorld(t)
			for _, h := range w.hosts {
				for _, conf := range []string{"all", "default", "eth0"} {
					if err := h.ns.SetSysctls(map[string]string{"ipv4.conf." + conf + ".rp_filter": rpFilter}); err != nil {
						t.Fatal(err)
					}
				}
			}
			here := w.hosts[0].run("here", bridge.Port{Published: 9000, Target: 80}, bridge.Port{Published: 9000, Target: 80, Protocol: "udp"})
			there := w.hosts[1].run("there", bridge.Port{Published: 9000, Target: 80}, bridge.Port{Published: 9000, Target: 80, Protocol: "udp"})
			local := port(8083, here, there)
			local.Local = true
			w.publish(port(8081, here), port(8082, there), local, udp(port(8081, here)), udp(port(8082, there)), udp(local))
			t.Logf("%-8s %-8s %-5s %-4s %-16s %s", "backend", "mode", "", "", "client", "seen by the container")
			for _, family := range []struct {
				name string
				addr func(int) netip.Addr
			}{{"IPv4", v4}, {"IPv6", v6}} {
				for _, c := range []struct {
					backend, mode string
					host, port    int
					answer        string
				}{
					{"local", "ingress", 1, 8081, "here"},
					{"remote", "ingress", 1, 8082, "there"},
					{"local", "local", 1, 8083, "here"},
					{"local", "host", 1, 9000, "here"},
					// In these modes n1 has no backend, so the client connects to the other host.
					{"remote", "local", 2, 8083, "there"},
					{"remote", "host", 2, 9000, "there"},
				} {
					for _, network := range []string{"tcp", "udp"} {
						client := family.addr(clientNumber)
						got, err := ask(w.client, network, at(family.addr(10+c.host), c.port))
						t.Logf("%-8s %-8s %-5s %-4s %-16s %s", c.backend, c.mode, family.name, network, client, got)
						if want := fmt.Sprint(c.answer, " ", client); err != nil || got != want {
							t.Errorf("got %q, %v, want %q", got, err, want)
						}
					}
				}
			}
		})
	}
}

func TestClients(t *testing.T) {
	w := newWorld(t)
	here, there := w.hosts[0].run("here"), w.hosts[1].run("there")
	w.publish(port(8081, here), port(8082, there), udp(port(8081, here)), udp(port(8082, there)))
	n1, n2, n3 := w.hosts[0], w.hosts[1], w.hosts[2]
	for _, f := range []struct {
		addr          func(int) netip.Addr
		loopback      string
		bridge        netip.Addr
		mesh1, mesh3  netip.Addr
		bridgeGateway netip.Addr
	}{
		{v4, "127.0.0.1", here.Gateway, n1.node.Mesh[0].Addr(), n3.node.Mesh[0].Addr(), here.Gateway},
		{v6, "::1", here.Gateway6, n1.node.Mesh[1].Addr(), n3.node.Mesh[1].Addr(), here.Gateway6},
	} {
		loopback := netip.MustParseAddr(f.loopback)
		for _, c := range []struct {
			what string
			from *netns.Namespace
			to   netip.Addr
			port int
			want string
		}{
			{"the host's loopback", n1.ns, loopback, 8081, "here " + f.bridge.String()},
			{"the host's loopback", n1.ns, loopback, 8082, "there " + f.mesh1.String()},
			{"loopback of a host without tasks", n3.ns, loopback, 8082, "there " + f.mesh3.String()},
			{"the host itself", n1.ns, f.addr(11), 8081, "here " + f.addr(11).String()},
			{"the host itself", n1.ns, f.addr(11), 8082, "there " + f.addr(11).String()},
			{"another host", n3.ns, f.addr(11), 8082, "there " + f.addr(13).String()},
			{"the backend's host by another", n2.ns, f.addr(11), 8082, "there " + f.mesh1.String()},
			{"a container, backend here", here.ns, f.addr(11), 8081, "here " + f.bridgeGateway.String()},
			{"a container, backend there", here.ns, f.addr(11), 8082, "there " + f.mesh1.String()},
			{"a container by another host", here.ns, f.addr(13), 8082, "there " + f.addr(11).String()},
			{"a container by another host to itself", here.ns, f.addr(13), 8081, "here " + f.mesh3.String()},
			{"client by a host without tasks", w.client, f.addr(13), 8081, "here " + f.addr(clientNumber).String()},
		} {
			for _, network := range []string{"tcp", "udp"} {
				w.want(c.what, c.from, network, at(c.to, c.port), c.want)
			}
		}
	}
}

// A packet from a peer to the mesh address of a host, and to no published port, does not reach the
// programs of that host.
func TestPeers_ReachNothingOfTheHost(t *testing.T) {
	w := newWorld(t)
	here := w.hosts[0].run("here")
	w.publish(port(8081, here))
	from, to := w.hosts[0].ns, w.hosts[1]
	for i, f := range []struct {
		network string
		addr    func(int) netip.Addr
	}{{"ip4", v4}, {"ip6", v6}} {
		for _, protocol := range []int{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_GRE, 253} {
			network := fmt.Sprint(f.network, ":", protocol)
			send := func(addr netip.Addr, mark string) {
				w.inside(from, func() error {
					conn, err := net.Dial(network, addr.String())
					if err != nil {
						return err
					}
					defer conn.Close()
					_, err = conn.Write([]byte(mark + strings.Repeat(" ", 40)))
					return err
				})
			}
			var ear net.PacketConn
			to.do(func() (err error) { ear, err = net.ListenPacket(network, ""); return err })
			send(to.node.Mesh[i].Addr(), "by the mesh")
			send(f.addr(12), "by the host's network")
			_ = ear.SetReadDeadline(time.Now().Add(10 * time.Second))
			var heard []string
			for buf := make([]byte, 2000); ; {
				n, _, err := ear.ReadFrom(buf)
				if err != nil {
					break
				}
				if mark := strings.TrimSpace(string(buf[:n])); strings.HasPrefix(mark, "by ") {
					heard = append(heard, mark)
					_ = ear.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
				}
			}
			_ = ear.Close()
			if want := []string{"by the host's network"}; !slices.Equal(heard, want) {
				t.Errorf("%s: the host hears %q, want %q", network, heard, want)
			}
		}
	}
}
