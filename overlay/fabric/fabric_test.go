//go:build linux

package fabric_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"swarm/internal/eventually"
	"swarm/overlay/fabric"
	"swarm/overlay/hostnet"
	"swarm/overlay/netns"
)

var (
	red  = fabric.Network{ID: "red", VNI: 65536}
	blue = fabric.Network{ID: "blue", VNI: 65537}
)

func TestAttach_TasksOfAllHostsReachEachOther(t *testing.T) {
	for name, s := range map[string]settings{
		"underlay ipv4": {hosts: 3},
		"underlay ipv6": {hosts: 3, ipv6: true},
		"jumbo":         {hosts: 3, mtu: 9000},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, s)
			var tasks []*task
			for i, h := range w.hosts {
				for j := range 2 {
					n := i*2 + j + 2
					k := h.start(fmt.Sprint("t", n), red, fmt.Sprintf("10.0.1.%d/24", n), fmt.Sprintf("fd00:1::%x/64", n))
					k.serve(k.attachment.TaskID)
					tasks = append(tasks, k)
				}
			}
			w.sync("red", tasks...)
			for _, from := range tasks {
				for _, to := range tasks {
					from.reaches(to.attachment.TaskID, to.attachment.Addresses[0].Addr().String(), to.attachment.Addresses[1].Addr().String())
				}
			}
			// The largest packets that fit pass, in both families.
			mtu := infoOf(t, w.hosts[0], "red").MTU
			if want := max(s.mtu, 1400) - map[bool]int{false: 50, true: 70}[s.ipv6]; mtu != want {
				t.Errorf("mtu: got %d, want %d", mtu, want)
			}
			for addr, headers := range map[string]int{"10.0.1.7": 28, "fd00:1::7": 48} {
				if got := tasks[0].ask("udp", addr, mtu-headers, 10*time.Second); got != "t7" {
					t.Errorf("%d bytes to %s: got answer from %q", mtu-headers, addr, got)
				}
			}
		})
	}
}

func infoOf(t *testing.T, h *host, id string) fabric.Info {
	t.Helper()
	all, err := h.f.Networks(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.ID == id {
			return i
		}
	}
	t.Fatalf("host %s has no network %s", h.name, id)
	return fabric.Info{}
}

func TestAttach_NetworksWithEqualSubnetsAreSeparate(t *testing.T) {
	w := newWorld(t, settings{hosts: 2})
	var tasks []*task
	for _, n := range []fabric.Network{red, blue} {
		for i, h := range w.hosts {
			k := h.start(fmt.Sprint(n.ID, i+2), n, fmt.Sprintf("10.0.1.%d/24", i+2))
			k.serve(k.attachment.TaskID)
			tasks = append(tasks, k)
		}
	}
	only := w.hosts[0].start("only", red, "10.0.1.9/24")
	only.serve("only")
	w.sync("red", append(tasks, only)...)
	w.sync("blue", append(tasks, only)...)
	for _, from := range tasks {
		from.reaches(from.attachment.Network.ID+"2", "10.0.1.2")
		from.reaches(from.attachment.Network.ID+"3", "10.0.1.3")
		if from.attachment.Network.ID == "blue" {
			if got := from.ask("tcp", "10.0.1.9", 0, 300*time.Millisecond); got != "" {
				t.Errorf("%s reaches %s on another network", from.attachment.TaskID, got)
			}
		}
	}
}

func TestSync_AddressMovesToAnotherHost(t *testing.T) {
	w := newWorld(t, settings{hosts: 3})
	a, b := w.hosts[0].start("a", red, "10.0.1.2/24", "fd00:1::2/64"), w.hosts[0].start("b", red, "10.0.1.3/24")
	c := w.hosts[1].start("c", red, "10.0.1.4/24", "fd00:1::4/64")
	stays := w.hosts[2].start("stays", red, "10.0.1.5/24")
	c.serve("c")
	stays.serve("stays")
	w.sync("red", a, b, c, stays)
	open := connect(t, a, stays)
	a.reaches("c", "10.0.1.4", "fd00:1::4")
	b.reaches("c", "10.0.1.4")
	// The task moves to the third host, to the host of the clients, and away again. The neighbour
	// entries of the clients stay right.
	for _, to := range []*host{w.hosts[2], w.hosts[0], w.hosts[1]} {
		c.stop()
		c = to.start("c", red, "10.0.1.4/24", "fd00:1::4/64")
		name := "c on " + to.name
		c.serve(name)
		w.sync("red", a, b, c, stays)
		a.reaches(name, "10.0.1.4", "fd00:1::4")
		b.reaches(name, "10.0.1.4")
		open.echo()
	}
}

func TestSync_LocalTaskWinsOverRemoteTask(t *testing.T) {
	w := newWorld(t, settings{hosts: 2})
	a, b := w.hosts[0].start("a", red, "10.0.1.2/24"), w.hosts[0].start("b", red, "10.0.1.3/24")
	other := w.hosts[1].start("other", red, "10.0.1.3/24")
	b.serve("b")
	other.serve("other")
	w.sync("red", a, other)
	a.reaches("b", "10.0.1.3")
	// The former Sync takes effect as soon as the local task is detached.
	b.stop()
	a.reaches("other", "10.0.1.3")
}

func TestSync_BeforeTheFirstTaskIsKept(t *testing.T) {
	w := newWorld(t, settings{hosts: 2})
	a := w.hosts[0].start("a", red, "10.0.1.2/24")
	a.serve("a")
	b := &task{host: w.hosts[1], attachment: fabric.Attachment{TaskID: "b", Network: red, Addresses: a.attachment.Addresses[:0]}}
	w.sync("red", a)
	b = w.hosts[1].start("b", red, "10.0.1.3/24")
	w.hosts[0].do(func() error {
		return w.hosts[0].f.Sync(context.Background(), "red", []fabric.Endpoint{endpoint(b)})
	})
	b.reaches("a", "10.0.1.2")
}

func endpoint(k *task) fabric.Endpoint {
	e := fabric.Endpoint{TaskID: k.attachment.TaskID, Host: k.host.addr}
	for _, a := range k.attachment.Addresses {
		e.Addresses = append(e.Addresses, a.Addr())
	}
	return e
}

// The address of a host may belong to a router in front of it, which forwards the packets to an
// address of the host.
func TestAttach_UnderlayAddressOfNoInterface(t *testing.T) {
	for name, s := range map[string]settings{"ipv4": {hosts: 2}, "ipv6": {hosts: 2, ipv6: true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, s)
			real := w.hosts[0].addr
			if w.hosts[0].addr = netip.MustParseAddr("192.0.2.1"); s.ipv6 {
				w.hosts[0].addr = netip.MustParseAddr("2001:db8::1")
			}
			w.hosts[0].restart()
			a, b := w.hosts[0].start("a", red, "10.0.1.2/24"), w.hosts[1].start("b", red, "10.0.1.3/24")
			b.serve("b")
			w.hosts[0].addr = real
			w.sync("red", a, b)
			a.reaches("b", "10.0.1.3")
			open := connect(t, a, b)
			w.hosts[0].restart(a.attachment)
			w.sync("red", a, b)
			open.echo()
		})
	}
}

// connection is an established TCP connection. The other end sends back what it receives.
type connection struct {
	t *testing.T
	c net.Conn
}

func connect(t *testing.T, from, to *task) *connection {
	t.Helper()
	var l net.Listener
	err := to.ns.Do(func() (err error) {
		l, err = net.Listen("tcp", ":9")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c)
	}()
	out := &connection{t: t}
	err = from.ns.Do(func() (err error) {
		out.c, err = net.DialTimeout("tcp", net.JoinHostPort(to.attachment.Addresses[0].Addr().String(), "9"), 10*time.Second)
		return err
	})
	t.Cleanup(func() {
		if out.c != nil {
			out.c.Close()
		}
		l.Close()
		<-done
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// echo fails the test unless what is written comes back.
func (c *connection) echo() {
	c.t.Helper()
	_ = c.c.SetDeadline(time.Now().Add(10 * time.Second))
	buf := []byte("hello")
	if _, err := c.c.Write(buf); err != nil {
		c.t.Fatal(err)
	}
	if _, err := io.ReadFull(c.c, buf); err != nil {
		c.t.Fatal(err)
	}
}

func TestRestore_TransferContinues(t *testing.T) {
	w := newWorld(t, settings{hosts: 2})
	a, b := w.hosts[0].start("a", red, "10.0.1.2/24"), w.hosts[1].start("b", red, "10.0.1.3/24")
	gone := w.hosts[0].start("gone", blue, "10.0.1.2/24")
	b.serve("b")
	w.sync("red", a, b)
	open := connect(t, a, b)
	open.echo()
	stop, done := make(chan struct{}), make(chan struct{})
	var moved int
	go func() {
		defer close(done)
		for buf := make([]byte, 64<<10); ; moved++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = open.c.SetDeadline(time.Now().Add(10 * time.Second)) // generous, for a busy machine
			if _, err := open.c.Write(buf); err != nil {
				t.Error(err)
				return
			}
			if _, err := io.ReadFull(open.c, buf); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 20 {
		w.hosts[0].restart(a.attachment)
		w.hosts[1].restart(b.attachment)
		w.sync("red", a, b)
	}
	close(stop)
	<-done
	if moved == 0 {
		t.Error("nothing was transferred")
	}
	if netns.Pinned(w.hosts[0].pins() + "/" + gone.attachment.Network.ID) {
		t.Error("a network without a task still exists after the restore")
	}
}

// Restore repairs what is broken, and the next Sync removes entries that are not needed any more.
func TestRestore_RepairsAndSyncRemovesStaleEntries(t *testing.T) {
	w := newWorld(t, settings{hosts: 3})
	a, b := w.hosts[0].start("a", red, "10.0.1.2/24"), w.hosts[1].start("b", red, "10.0.1.3/24")
	c := w.hosts[2].start("c", red, "10.0.1.4/24")
	b.serve("b")
	c.serve("c")
	w.sync("red", a, b, c)
	a.reaches("b", "10.0.1.3")
	for name, damage := range map[string]func() error{
		"nothing":        func() error { return nil },
		"the cable":      func() error { return deleteLink(a.attachment.Netns, "eth0") },
		"the device":     func() error { return deleteLink(w.hosts[0].pins()+"/red", "vxlan") },
		"the bridge":     func() error { return deleteLink(w.hosts[0].pins()+"/red", "bridge") },
		"the namespace":  func() error { return netns.Delete(w.hosts[0].pins() + "/red") },
		"a bridge entry": func() error { return flushEntries(w.hosts[0].pins()+"/red", "vxlan") },
	} {
		t.Run(name, func(t *testing.T) {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			w.hosts[0].restart(a.attachment)
			w.sync("red", a, b)
			a.reaches("b", "10.0.1.3")
			if got := a.ask("udp", "10.0.1.4", 32, 100*time.Millisecond); got != "" {
				t.Errorf("the entry of a task that Sync did not list still exists: %q answers", got)
			}
			w.sync("red", a, b, c)
			a.reaches("c", "10.0.1.4")
		})
	}
}

func deleteLink(pin, name string) error {
	ns, err := netns.Open(pin)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
}

// flushEntries removes the entries of the bridge at a port.
func flushEntries(pin, port string) error {
	ns, err := netns.Open(pin)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.Do(func() error {
		l, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		all, err := hostnet.Complete(func() ([]netlink.Neigh, error) { return netlink.NeighList(l.Attrs().Index, 7) })
		if err != nil {
			return err
		}
		for _, n := range all {
			if n.MasterIndex != 0 && n.State&netlink.NUD_NOARP != 0 {
				n.Flags = netlink.NTF_MASTER
				if err := netlink.NeighDel(&n); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// The first task creates a network and the last one removes it. In between tasks come and go.
func TestDetach_LeavesNothing(t *testing.T) {
	w := newWorld(t, settings{hosts: 2})
	far := w.hosts[1].start("far", red, "10.0.1.200/24")
	far.serve("far")
	round := func(i int) {
		k := w.hosts[0].start("k", red, fmt.Sprintf("10.0.1.%d/24", 2+i%150))
		w.sync("red", k, far)
		if i%20 == 0 {
			k.reaches("far", "10.0.1.200")
		}
		k.stop()
	}
	for i := range 20 {
		round(i)
		if got := w.hosts[0].remains(); got != "" {
			t.Fatalf("round %d: left on the host:\n%s", i, got)
		}
	}
	near := w.hosts[0].start("near", red, "10.0.1.201/24")
	for i := range 180 {
		round(i)
	}
	// The kernel deletes the cables with the namespaces of the tasks, a moment later.
	eventually.True(t, "one cable is left on the bridge", func() bool {
		return len(links(t, w.hosts[0].pins()+"/red")) == len([]string{"lo", "bridge", "vxlan", "near"})
	})
	near.stop()
	far.stop()
	for _, h := range w.hosts {
		if got := h.remains(); got != "" {
			t.Fatalf("left on host %s:\n%s", h.name, got)
		}
	}
}

func links(t *testing.T, pin string) []netlink.Link {
	t.Helper()
	ns, err := netns.Open(pin)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var list []netlink.Link
	if err := ns.Do(func() (err error) { list, err = hostnet.Complete(netlink.LinkList); return err }); err != nil {
		t.Fatal(err)
	}
	return list
}

// The network of the routing mesh is described too, although its device is in the namespace of the
// host and not managed by the fabric.
func TestHostNetwork_DescribesTheMesh(t *testing.T) {
	h := newWorld(t, settings{hosts: 1}).hosts[0]
	describe := func() (info fabric.Info, ok bool) {
		t.Helper()
		h.do(func() (err error) {
			info, ok, err = h.f.HostNetwork(t.Context(), "in", "mesh0")
			return err
		})
		return info, ok
	}
	if info, ok := describe(); ok {
		t.Errorf("without a device: got %+v, want none", info)
	}
	h.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = "mesh0", 1350
		if err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 70000, Port: 4789, SrcAddr: h.addr.AsSlice()}); err != nil {
			return err
		}
		link, err := netlink.LinkByName("mesh0")
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, State: unix.NUD_PERMANENT | unix.NUD_NOARP, Flags: unix.NTF_SELF,
			IP: net.IPv4(192, 0, 2, 9), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9},
		})
	})
	got, ok := describe()
	want := fabric.Info{
		Network: fabric.Network{ID: "in", VNI: 70000}, Device: "mesh0", Port: 4789, Underlay: h.addr,
		Peers: []fabric.Peer{{Host: netip.MustParseAddr("192.0.2.9"), Endpoints: 1}},
	}
	want.MTU = 1350
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); !ok || diff != "" {
		t.Errorf("with a device: got ok=%t, -want +got:\n%s", ok, diff)
	}
}

// `swarm doctor` may ask for the MTU before the worker has restored its tasks.
func TestMaxMTU_BeforeRestore(t *testing.T) {
	f, err := fabric.New(fabric.Config{PinDir: t.TempDir(), Underlay: netip.MustParseAddr("192.0.2.1")}, fabric.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if mtu, err := f.MaxMTU(t.Context()); err == nil && mtu < 500 {
		t.Errorf("MTU of a network: got %d, want what the underlay leaves", mtu)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}
