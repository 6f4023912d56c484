//go:build linux

package mesh_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/bridge"
	"swarm/overlay/mesh"
	"swarm/overlay/netns"
	"swarm/overlay/vswitch"
)

// world is a client and three hosts on a switch. Each host has a bridge network and the mesh.
type world struct {
	t      testing.TB
	client *netns.Namespace
	hosts  []*host
}

type host struct {
	w      *world
	name   string
	ns     *netns.Namespace
	pins   string
	node   mesh.Node
	bridge *bridge.Bridge
	mesh   *mesh.Mesh
}

// The addresses on the switch end in 9 for the client and in 10+n for host n.
func v4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 212, 9, byte(n)}) }

func v6(n int) netip.Addr { return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x21, 2: 0x20, 15: byte(n)}) }

const clientNumber = 9

func newWorld(t testing.TB) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: hosts are network namespaces")
	}
	dir := t.TempDir()
	sw, err := vswitch.Open(vswitch.Config{
		Dir: filepath.Join(dir, "switch"), Name: fmt.Sprint("mesh", os.Getpid(), t.Name()), Subnet: netip.MustParsePrefix("10.212.9.0/24"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := sw.Create(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sw.Remove(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t}
	plug := func(name string, n int) *netns.Namespace {
		if err := sw.AddHost(vswitch.Host{Name: name, Address: v4(n)}); err != nil {
			t.Fatal(err)
		}
		ns, err := netns.Open(sw.NamespacePath(name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
		w.inside(ns, func() error { return addAddress(netip.PrefixFrom(v6(n), 64)) })
		return ns
	}
	w.client = plug("client", clientNumber)
	for n := 1; n <= 3; n++ {
		h := &host{w: w, name: fmt.Sprint("n", n), pins: filepath.Join(dir, fmt.Sprint("pins", n))}
		h.ns = plug(h.name, 10+n)
		h.node = mesh.Node{ID: h.name, Underlay: v4(10 + n), Others: []netip.Addr{v6(10 + n)}, Mesh: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n + 1)}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x0a, 15: byte(n + 1)}), 64),
		}}
		h.start()
		w.hosts = append(w.hosts, h)
		t.Cleanup(func() {
			h.do(func() error { return h.mesh.Purge(context.Background()) })
			h.do(func() error { return h.bridge.Purge(context.Background()) })
			if err := h.mesh.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return w
}

func addAddress(p netip.Prefix) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(p.String())
	if err != nil {
		return err
	}
	a.Flags = unix.IFA_F_NODAD
	return netlink.AddrAdd(link, a)
}

func (w *world) inside(ns *netns.Namespace, fn func() error) {
	w.t.Helper()
	if err := ns.Do(fn); err != nil {
		w.t.Fatal(err)
	}
}

func (h *host) do(fn func() error) {
	h.w.t.Helper()
	h.w.inside(h.ns, fn)
}

// start starts a new daemon, which has no state other than the kernel's.
func (h *host) start() {
	h.w.t.Helper()
	log := slog.New(slog.DiscardHandler)
	if h.mesh != nil {
		if err := h.mesh.Close(); err != nil {
			h.w.t.Fatal(err)
		}
	}
	h.mesh = mesh.New(mesh.Config{VNI: 65536}, mesh.Deps{Log: log})
	if h.bridge == nil {
		b, err := bridge.New(bridge.Config{NetnsDir: h.pins}, bridge.Deps{Log: log})
		if err != nil {
			h.w.t.Fatal(err)
		}
		h.bridge = b
	}
}

// container is a container on a host, with servers that answer with the client's address.
type container struct {
	host *host
	name string
	ns   *netns.Namespace
	bridge.Result
}

func (c *container) backend() mesh.Backend {
	return mesh.Backend{Node: c.host.name, Addresses: []netip.Addr{c.Address.Addr(), c.Address6.Addr()}}
}

func (h *host) run(name string, ports ...bridge.Port) *container {
	h.w.t.Helper()
	c := &container{host: h, name: name}
	h.do(func() (err error) {
		c.Result, err = h.bridge.Attach(context.Background(), bridge.Attachment{TaskID: name, Ports: ports})
		return err
	})
	var err error
	if c.ns, err = netns.Open(c.Netns); err != nil {
		h.w.t.Fatal(err)
	}
	h.w.t.Cleanup(func() { c.ns.Close() })
	h.w.serve(c.ns, name, 80)
	return c
}

// serve answers each line with the server's name and the client's address.
func (w *world) serve(ns *netns.Namespace, name string, port int) {
	w.t.Helper()
	var l net.Listener
	var u net.PacketConn
	w.inside(ns, func() (err error) {
		if l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); err != nil {
			return err
		}
		u, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		return err
	})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintln(c, name, c.RemoteAddr().(*net.TCPAddr).IP)
				}
			})
		}
	})
	all.Go(func() {
		buf := make([]byte, 2000)
		for {
			_, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(fmt.Appendln(nil, name, from.(*net.UDPAddr).IP), from)
		}
	})
	w.t.Cleanup(func() { l.Close(); u.Close() })
}

// talk is a connection that sends several requests.
type talk struct {
	net.Conn
	r *bufio.Reader
}

func dial(ns *netns.Namespace, network, addr string) (*talk, error) {
	return dialFrom(ns, network, "", addr)
}

// dialFrom uses a given port of the client, which may be in use for connections to other hosts.
func dialFrom(ns *netns.Namespace, network, from, addr string) (*talk, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	if from != "" {
		own := netip.MustParseAddrPort(from)
		d.LocalAddr = net.TCPAddrFromAddrPort(own)
		if network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(own)
		}
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var err error
			return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }), err)
		}
	}
	var c net.Conn
	err := ns.Do(func() (err error) {
		c, err = d.Dial(network, addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &talk{c, bufio.NewReader(c)}, nil
}

func (c *talk) ask() (string, error) {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "?\n"); err != nil {
		return "", err
	}
	line, err := c.r.ReadString('\n')
	acknowledge(c.Conn)
	return strings.TrimSpace(line), err
}

// acknowledge makes the kernel send a delayed acknowledgement now. Then no packet is on its way,
// and the rules may be missing for a moment without effect.
func acknowledge(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
	}
}

func ask(ns *netns.Namespace, network, addr string) (string, error) {
	c, err := dial(ns, network, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return c.ask()
}

func (w *world) want(what string, ns *netns.Namespace, network, addr, want string) {
	w.t.Helper()
	if got, err := ask(ns, network, addr); err != nil || got != want {
		w.t.Errorf("%s: %s %s answers %q, %v, want %q", what, network, addr, got, err, want)
	}
}

// refused fails the test unless a connection is refused at once. It tries again, because a busy
// machine may be slow once, while a dropped packet is slow each time.
func (w *world) refused(ns *netns.Namespace, network, addr string) {
	w.t.Helper()
	fastest := time.Hour
	for range 3 {
		start := time.Now()
		if got, err := ask(ns, network, addr); !errors.Is(err, syscall.ECONNREFUSED) {
			w.t.Errorf("%s %s without backends: %q, %v, want refused", network, addr, got, err)
		}
		fastest = min(fastest, time.Since(start))
	}
	if fastest > time.Second {
		w.t.Errorf("%s %s is refused after %s, want at once", network, addr, fastest)
	}
}

// state returns the state for one host: all other hosts, and these ports.
func (h *host) state(ports ...mesh.Published) mesh.State {
	s := mesh.State{Self: h.node, Ports: ports}
	for _, o := range h.w.hosts {
		if o != h {
			s.Peers = append(s.Peers, o.node)
		}
	}
	return s
}

func (h *host) sync(s mesh.State) {
	h.w.t.Helper()
	h.do(func() error {
		conflicts, err := h.mesh.Sync(context.Background(), s)
		if slices.ContainsFunc(conflicts, func(c mesh.Conflict) bool { return !c.AddressMissing }) {
			h.w.t.Errorf("host %s: %v", h.name, conflicts)
		}
		return err
	})
}

// publish syncs all hosts with these ports.
func (w *world) publish(ports ...mesh.Published) {
	w.t.Helper()
	for _, h := range w.hosts {
		h.sync(h.state(ports...))
	}
}

// port publishes port 80 of containers.
func port(number uint16, backends ...*container) mesh.Published {
	p := mesh.Published{Port: mesh.Port{Published: number, Protocol: "tcp"}, Target: 80}
	for _, b := range backends {
		p.Backends = append(p.Backends, b.backend())
	}
	return p
}

func udp(p mesh.Published) mesh.Published {
	p.Protocol = "udp"
	return p
}

func at(a netip.Addr, port int) string { return netip.AddrPortFrom(a, uint16(port)).String() }
