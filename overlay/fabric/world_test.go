//go:build linux

package fabric_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/overlay/fabric"
	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
	"swarm/overlay/vswitch"
)

// world is a set of hosts on a virtual switch.
type world struct {
	t     testing.TB
	dir   string
	hosts []*host
}

// host is a host with its Fabric.
type host struct {
	w    *world
	name string
	addr netip.Addr
	ns   *netns.Namespace
	f    *fabric.Fabric
}

type settings struct {
	hosts, mtu int
	ipv6       bool
}

func newWorld(t testing.TB, s settings) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: hosts are network namespaces")
	}
	w := &world{t: t, dir: t.TempDir()}
	sw, err := vswitch.Open(vswitch.Config{
		Dir: filepath.Join(w.dir, "switch"), Name: fmt.Sprint("fabric", os.Getpid(), t.Name()),
		Subnet: netip.MustParsePrefix("10.212.7.0/24"), MTU: max(s.mtu, 1400),
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
	for i := range s.hosts {
		h := &host{w: w, name: fmt.Sprint("h", i+1), addr: netip.AddrFrom4([4]byte{10, 212, 7, byte(11 + i)})}
		if err := sw.AddHost(vswitch.Host{Name: h.name, Address: h.addr}); err != nil {
			t.Fatal(err)
		}
		if h.ns, err = netns.Open(sw.NamespacePath(h.name)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.ns.Close() })
		if s.ipv6 {
			h.addr = netip.MustParseAddr(fmt.Sprintf("fd00:77::%x", 11+i))
			h.do(func() error { return onlyIPv6(h.addr) })
		}
		h.restart()
		t.Cleanup(func() {
			h.do(func() error { return h.f.Purge(context.Background()) })
			if err := h.f.Close(); err != nil {
				t.Error(err)
			}
		})
		w.hosts = append(w.hosts, h)
	}
	return w
}

// onlyIPv6 replaces the IPv4 address of the host by a.
func onlyIPv6(a netip.Addr) error {
	eth, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	old, err := hostnet.Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(eth, netlink.FAMILY_V4) })
	if err != nil {
		return err
	}
	return errors.Join(
		netlink.AddrDel(eth, &old[0]),
		netlink.AddrAdd(eth, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}),
	)
}

// restart replaces the Fabric by a new one, as a restart of the daemon does. Only the state of the
// kernel is kept.
func (h *host) restart(keep ...fabric.Attachment) {
	h.w.t.Helper()
	if h.f != nil {
		if err := h.f.Close(); err != nil {
			h.w.t.Fatal(err)
		}
	}
	var err error
	h.f, err = fabric.New(fabric.Config{PinDir: h.pins(), Underlay: h.addr}, fabric.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		h.w.t.Fatal(err)
	}
	h.do(func() error { return h.f.Restore(context.Background(), keep) })
}

func (h *host) pins() string { return filepath.Join(h.w.dir, h.name, "networks") }

func (h *host) do(fn func() error) {
	h.w.t.Helper()
	if err := h.ns.Do(fn); err != nil {
		h.w.t.Fatal(err)
	}
}

// task is the namespace of a container with its attachment.
type task struct {
	t          testing.TB
	host       *host
	attachment fabric.Attachment
	ns         *netns.Namespace
}

// start attaches a new task.
func (h *host) start(id string, n fabric.Network, addresses ...string) *task {
	h.w.t.Helper()
	pin := filepath.Join(h.w.dir, h.name, "tasks", id)
	if err := netns.Create(pin); err != nil {
		h.w.t.Fatal(err)
	}
	attachment := fabric.Attachment{TaskID: id, Network: n, Netns: pin, Interface: "eth0"}
	for _, a := range addresses {
		attachment.Addresses = append(attachment.Addresses, netip.MustParsePrefix(a))
	}
	ns, err := netns.Open(pin)
	if err != nil {
		h.w.t.Fatal(err)
	}
	k := &task{t: h.w.t, host: h, attachment: attachment, ns: ns}
	h.w.t.Cleanup(func() {
		ns.Close()
		_ = netns.Delete(pin)
	})
	h.do(func() error { return h.f.Attach(context.Background(), attachment) })
	return k
}

func (k *task) stop() {
	k.t.Helper()
	k.host.do(func() error { return k.host.f.Detach(context.Background(), k.attachment.TaskID) })
	if err := errors.Join(k.ns.Close(), netns.Delete(k.attachment.Netns)); err != nil {
		k.t.Fatal(err)
	}
}

// sync tells every host which tasks are on the other hosts.
func (w *world) sync(networkID string, tasks ...*task) {
	w.t.Helper()
	for _, h := range w.hosts {
		var there []fabric.Endpoint
		for _, k := range tasks {
			if k.host == h || k.attachment.Network.ID != networkID {
				continue
			}
			e := fabric.Endpoint{TaskID: k.attachment.TaskID, Host: k.host.addr}
			for _, a := range k.attachment.Addresses {
				e.Addresses = append(e.Addresses, a.Addr())
			}
			there = append(there, e)
		}
		h.do(func() error { return h.f.Sync(context.Background(), networkID, there) })
	}
}

// serve answers every TCP connection and UDP packet to the task's port 7 with name.
func (k *task) serve(name string) {
	k.t.Helper()
	err := k.ns.Do(func() error {
		l, err := net.Listen("tcp", ":7")
		if err != nil {
			return err
		}
		p, err := net.ListenPacket("udp", ":7")
		if err != nil {
			return errors.Join(err, l.Close())
		}
		done := make(chan struct{}, 2)
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte(name))
				c.Close()
			}
		}()
		go func() {
			defer func() { done <- struct{}{} }()
			buf := make([]byte, 9000)
			for {
				n, from, err := p.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = p.WriteTo(append([]byte(name), buf[:n-len(name)]...), from)
			}
		}()
		k.t.Cleanup(func() {
			l.Close()
			p.Close()
			<-done
			<-done
		})
		return nil
	})
	if err != nil {
		k.t.Fatal(err)
	}
}

// ask returns the name of the task that answers at an address, or "" if none answers in time.
func (k *task) ask(network, addr string, size int, within time.Duration) string {
	k.t.Helper()
	var answer string
	err := k.ns.Do(func() error {
		d := net.Dialer{Timeout: within}
		c, err := d.Dial(network, net.JoinHostPort(addr, "7"))
		if err != nil {
			return nil
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(within))
		if network == "udp" {
			if _, err := c.Write(make([]byte, size)); err != nil {
				return nil
			}
		}
		buf := make([]byte, 9000)
		n, err := c.Read(buf)
		if err != nil {
			return nil
		}
		if network == "udp" && n != size {
			return fmt.Errorf("answer of %d bytes to %d", n, size)
		}
		answer = strings.TrimRight(string(buf[:n]), "\x00")
		return nil
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return answer
}

// reaches fails the test unless the task with that name answers on TCP and UDP.
func (k *task) reaches(name string, addrs ...string) {
	k.t.Helper()
	for _, a := range addrs {
		for _, network := range []string{"tcp", "udp"} {
			if got := k.ask(network, a, 32, 10*time.Second); got != name {
				k.t.Errorf("%s on %s asks %s over %s: got answer from %q, want %q", k.attachment.TaskID, k.host.name, a, network, got, name)
			}
		}
	}
}

// remains lists what the fabric has left on the host.
func (h *host) remains() string {
	h.w.t.Helper()
	var out []string
	h.do(func() error {
		links, err := hostnet.Complete(netlink.LinkList)
		for _, l := range links {
			if n := l.Attrs().Name; n != "lo" && n != "eth0" {
				out = append(out, "interface "+n)
			}
		}
		return err
	})
	entries, err := os.ReadDir(h.pins())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.w.t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, "pin "+e.Name())
	}
	return strings.Join(out, "\n")
}
