//go:build linux

package vip_test

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
	"swarm/overlay/vip"
)

// world is a client's namespace with a cable to a namespace that has the addresses of all backends.
type world struct {
	t              testing.TB
	path           string
	client, server *netns.Namespace
	balancer       *vip.Balancer
}

func newWorld(t testing.TB) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: containers are network namespaces")
	}
	w := &world{t: t, path: filepath.Join(t.TempDir(), "client.ns"), balancer: vip.New()}
	w.client = w.namespace(w.path)
	w.server = w.namespace(filepath.Join(t.TempDir(), "server.ns"))
	t.Cleanup(func() {
		if err := w.balancer.Close(); err != nil {
			t.Error(err)
		}
	})
	h, err := w.client.Netlink()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = "eth0", netlink.NsFd(w.server.FD())
	if err := h.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	w.address(w.client, 1)
	w.address(w.server, 2, 3, 4, 5)
	return w
}

func (w *world) namespace(path string) *netns.Namespace {
	w.t.Helper()
	if err := netns.Create(path); err != nil {
		w.t.Fatal(err)
	}
	ns, err := netns.Open(path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ns.Close()
		if err := netns.Delete(path); err != nil {
			w.t.Error(err)
		}
	})
	return ns
}

func (w *world) address(ns *netns.Namespace, numbers ...int) {
	w.t.Helper()
	h, err := ns.Netlink()
	if err != nil {
		w.t.Fatal(err)
	}
	defer h.Close()
	link, err := h.LinkByName("eth0")
	if err != nil {
		w.t.Fatal(err)
	}
	if err := h.LinkSetUp(link); err != nil {
		w.t.Fatal(err)
	}
	for _, n := range numbers {
		for _, p := range []netip.Prefix{netip.PrefixFrom(v4(n), 16), netip.PrefixFrom(v6(n), 64)} {
			if err := h.AddrAdd(link, &netlink.Addr{IPNet: hostnet.IPNet(p), Flags: unix.IFA_F_NODAD}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

func v4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, byte(n >> 8), byte(n)}) }

func v6(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 14: byte(n >> 8), 15: byte(n)})
}

// service returns service n. No host has its virtual addresses.
func service(n int, backends ...int) vip.Service {
	s := vip.Service{VIPs: []netip.Addr{v4(20000 + n), v6(20000 + n)}}
	for _, b := range backends {
		s.Backends = append(s.Backends, v4(b), v6(b))
	}
	return s
}

func (w *world) program(services ...vip.Service) {
	w.t.Helper()
	if err := w.balancer.Program(w.t.Context(), w.path, services); err != nil {
		w.t.Fatal(err)
	}
}

// serve answers each TCP line and each datagram with the local address and the client's address.
func (w *world) serve(ns *netns.Namespace, port int) {
	w.t.Helper()
	var l net.Listener
	err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintln(c, c.LocalAddr().(*net.TCPAddr).IP, c.RemoteAddr().(*net.TCPAddr).IP)
				}
			}()
		}
	}()
	w.t.Cleanup(func() { l.Close(); <-done })
}

// serveUDP answers from each of its addresses. A socket that is not bound to one would answer from
// any.
func (w *world) serveUDP(ns *netns.Namespace, port int, addrs ...netip.Addr) {
	w.t.Helper()
	for _, a := range addrs {
		var c net.PacketConn
		err := ns.Do(func() (err error) {
			c, err = net.ListenPacket("udp", netip.AddrPortFrom(a, uint16(port)).String())
			return err
		})
		if err != nil {
			w.t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, 100)
			for {
				_, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = c.WriteTo(fmt.Appendln(nil, a, from.(*net.UDPAddr).IP), from)
			}
		}()
		w.t.Cleanup(func() { c.Close(); <-done })
	}
}

// talk is a connection that sends several requests.
type talk struct {
	net.Conn
	r *bufio.Reader
}

func (w *world) dial(network string, to netip.Addr, port int) (*talk, error) {
	var c net.Conn
	err := w.client.Do(func() (err error) {
		c, err = net.DialTimeout(network, netip.AddrPortFrom(to, uint16(port)).String(), 10*time.Second)
		return err
	})
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { c.Close() })
	return &talk{c, bufio.NewReader(c)}, nil
}

func (c *talk) ask() (string, error) {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintln(c, "?"); err != nil {
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

func (w *world) ask(network string, to netip.Addr, port int) (string, error) {
	c, err := w.dial(network, to, port)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return c.ask()
}

func (w *world) want(network string, to netip.Addr, port int, answer string) {
	w.t.Helper()
	if got, err := w.ask(network, to, port); err != nil || got != answer {
		w.t.Errorf("%s to %s: got %q, %v, want %q", network, to, got, err, answer)
	}
}

func (w *world) restart() {
	w.t.Helper()
	if err := w.balancer.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.balancer = vip.New()
}

func (w *world) flush() {
	w.t.Helper()
	err := w.client.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.FlushRuleset()
		return c.Flush()
	})
	if err != nil {
		w.t.Fatal(err)
	}
}
