//go:build linux

package bridge_test

import (
	"bufio"
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

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"swarm/overlay/bridge"
	"swarm/overlay/netns"
	"swarm/overlay/vswitch"
)

const (
	hostAddr   = "10.211.9.11"
	clientAddr = "10.211.9.12"
)

// world is a host with a bridge network, and a client beside the host.
type world struct {
	t            *testing.T
	dir          string
	host, client *netns.Namespace
	b            *bridge.Bridge
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: hosts are network namespaces")
	}
	dir := t.TempDir()
	sw, err := vswitch.Open(vswitch.Config{
		Dir: filepath.Join(dir, "switch"), Name: fmt.Sprint("bridge", os.Getpid(), t.Name()), Subnet: netip.MustParsePrefix("10.211.9.0/24"), MTU: 1400,
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
	w := &world{t: t, dir: filepath.Join(dir, "netns")}
	for name, ns := range map[string]**netns.Namespace{"host": &w.host, "client": &w.client} {
		addr := map[string]string{"host": hostAddr, "client": clientAddr}[name]
		if err := sw.AddHost(vswitch.Host{Name: name, Address: netip.MustParseAddr(addr)}); err != nil {
			t.Fatal(err)
		}
		if *ns, err = netns.Open(sw.NamespacePath(name)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*ns).Close() })
	}
	w.restart()
	t.Cleanup(func() { w.do(func() error { return w.b.Purge(context.Background()) }) })
	return w
}

// restart starts a new daemon on the host. Only the state in the kernel remains of the old one.
func (w *world) restart() {
	w.t.Helper()
	if w.b != nil {
		if err := w.b.Close(); err != nil {
			w.t.Fatal(err)
		}
	}
	b, err := bridge.New(bridge.Config{NetnsDir: w.dir}, bridge.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.b = b
}

// do runs fn on the host.
func (w *world) do(fn func() error) {
	w.t.Helper()
	if err := w.host.Do(fn); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) tryAttach(a bridge.Attachment) (r bridge.Result, err error) {
	err = w.host.Do(func() error {
		r, err = w.b.Attach(context.Background(), a)
		return err
	})
	return r, err
}

func (w *world) attach(id string, ports ...bridge.Port) bridge.Result {
	w.t.Helper()
	r, err := w.tryAttach(bridge.Attachment{TaskID: id, Ports: ports})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) detach(id string) {
	w.t.Helper()
	w.do(func() error { return w.b.Detach(context.Background(), id) })
}

// in opens a task's namespace.
func (w *world) in(r bridge.Result) *netns.Namespace {
	w.t.Helper()
	ns, err := netns.Open(r.Netns)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ns.Close() })
	return ns
}

// serve answers every connection to a task's port with "name client-address".
func (w *world) serve(r bridge.Result, name string, port int) {
	w.t.Helper()
	w.answer(w.listen(w.in(r), port), name)
}

func (w *world) listen(ns *netns.Namespace, port int) (l net.Listener) {
	w.t.Helper()
	err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (w *world) answer(l net.Listener, name string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, name, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
	w.t.Cleanup(func() { l.Close(); <-done })
}

// ask connects from a namespace and returns the answer.
func ask(ns *netns.Namespace, addr string) (string, error) {
	return askFor(ns, addr, 500*time.Millisecond)
}

// askFor waits longer for an answer, because a cable may need time to pass the first packet on a
// busy machine.
func askFor(ns *netns.Namespace, addr string, patience time.Duration) (answer string, err error) {
	err = ns.Do(func() error {
		c, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(patience))
		answer, err = bufio.NewReader(c).ReadString('\n')
		return err
	})
	return strings.TrimSpace(answer), err
}

func wantAnswer(t *testing.T, what string, ns *netns.Namespace, addr, want string) {
	t.Helper()
	if got, err := askFor(ns, addr, 10*time.Second); err != nil || got != want {
		t.Errorf("%s: %s answers %q, %v, want %q", what, addr, got, err, want)
	}
}

func wantNoAnswer(t *testing.T, what string, ns *netns.Namespace, addr string) {
	t.Helper()
	if got, err := ask(ns, addr); err == nil {
		t.Errorf("%s: %s answers %q, want none", what, addr, got)
	}
}

func TestAttach_TasksReachEachOtherAndTheWorld(t *testing.T) {
	w := newWorld(t)
	a, b := w.attach("task-a"), w.attach("task-b")
	if a.Address.String() != "172.30.0.2/16" || a.Gateway.String() != "172.30.0.1" || a.Interface != "eth0" || a.MAC != "02:53:ac:1e:00:02" {
		t.Errorf("first attachment: %+v", a)
	}
	w.serve(b, "b", 80)
	wantAnswer(t, "task to task", w.in(a), b.Address.Addr().String()+":80", "b 172.30.0.2")

	// The server outside sees the host's address.
	var l net.Listener
	if err := w.client.Do(func() (err error) { l, err = net.Listen("tcp4", ":90"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	seen := make(chan string, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			seen <- c.RemoteAddr().(*net.TCPAddr).IP.String()
			fmt.Fprintln(c, "world")
			c.Close()
		}
	}()
	wantAnswer(t, "task to world", w.in(a), clientAddr+":90", "world")
	if got := <-seen; got != hostAddr {
		t.Errorf("the world sees %s, want the host's %s", got, hostAddr)
	}
	// A client outside cannot connect to a task address.
	if err := w.client.Do(func() error { return addRoute("172.30.0.0/16", hostAddr) }); err != nil {
		t.Fatal(err)
	}
	wantNoAnswer(t, "world to task's address", w.client, b.Address.Addr().String()+":80")
	w.do(unguard)
	wantAnswer(t, "without the rule", w.client, b.Address.Addr().String()+":80", "b "+clientAddr)
}

func TestAttach_PublishedPorts(t *testing.T) {
	w := newWorld(t)
	a := w.attach("task-a",
		bridge.Port{Published: 8080, Target: 80},
		bridge.Port{Target: 80},
		bridge.Port{Published: 8081, Target: 80, HostIP: netip.MustParseAddr("127.0.0.1")},
		bridge.Port{Published: 8080, Target: 53, Protocol: "udp"},
	)
	other := w.attach("task-b", bridge.Port{Published: 8081, Target: 80, HostIP: netip.MustParseAddr(hostAddr)})
	w.serve(a, "a", 80)
	w.serve(other, "b", 80)
	want := []bridge.Port{
		{Published: 8080, Target: 80, Protocol: "tcp"},
		{Published: 30000, Target: 80, Protocol: "tcp"},
		{Published: 8081, Target: 80, Protocol: "tcp", HostIP: netip.MustParseAddr("127.0.0.1")},
		{Published: 8080, Target: 53, Protocol: "udp"},
	}
	if diff := cmp.Diff(want, a.Ports, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	wantAnswer(t, "client", w.client, hostAddr+":8080", "a "+clientAddr)
	wantAnswer(t, "client, chosen port", w.client, hostAddr+":30000", "a "+clientAddr)
	wantAnswer(t, "host by its address", w.host, hostAddr+":8080", "a "+hostAddr)
	wantAnswer(t, "host by loopback", w.host, "127.0.0.1:8080", "a 172.30.0.1")
	wantAnswer(t, "task by the host's address", w.in(other), hostAddr+":8080", "a 172.30.0.1")
	wantAnswer(t, "task to itself by the host's address", w.in(a), hostAddr+":8080", "a 172.30.0.1")
	wantAnswer(t, "one address, loopback", w.host, "127.0.0.1:8081", "a 172.30.0.1")
	wantAnswer(t, "one address, the other task's", w.client, hostAddr+":8081", "b "+clientAddr)
	wantNoAnswer(t, "not published", w.client, hostAddr+":8082")

	w.detach("task-a")
	wantNoAnswer(t, "after detach", w.client, hostAddr+":8080")
	wantAnswer(t, "the other task's stays", w.client, hostAddr+":8081", "b "+clientAddr)
}

func TestAttach_TaskCannotReachTheHostsLoopback(t *testing.T) {
	w := newWorld(t)
	a := w.attach("task-a")
	var l net.Listener
	w.do(func() (err error) { l, err = net.Listen("tcp4", "127.0.0.1:99"); return err })
	w.answer(l, "private")
	if err := w.in(a).Do(func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0o600), viaGateway("127.0.0.1", a.Gateway.String()))
	}); err != nil {
		t.Fatal(err)
	}
	wantNoAnswer(t, "task to the host's 127.0.0.1", w.in(a), "127.0.0.1:99")
	// The rules stop it, not the routing.
	w.do(unguard)
	wantAnswer(t, "without the rule", w.in(a), "127.0.0.1:99", "private "+a.Address.Addr().String())
}

func TestAttach_PortConflicts(t *testing.T) {
	w := newWorld(t)
	var l net.Listener
	w.do(func() (err error) { l, err = net.Listen("tcp4", ":8080"); return err })
	_, err := w.tryAttach(bridge.Attachment{TaskID: "a", Ports: []bridge.Port{{Published: 8080, Target: 80}}})
	if !errors.Is(err, errdefs.ErrAlreadyExists) || !strings.Contains(err.Error(), "8080/tcp") || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("port of another program: got %v, want already exists with port and process", err)
	}
	if got := w.remains(); got != "" {
		t.Errorf("a failed attach left:\n%s", got)
	}
	l.Close()
	w.attach("b", bridge.Port{Published: 8080, Target: 80, HostIP: netip.MustParseAddr("127.0.0.1")})
	_, err = w.tryAttach(bridge.Attachment{TaskID: "a", Ports: []bridge.Port{{Target: 80}, {Published: 8080, Target: 80}}})
	if !errors.Is(err, errdefs.ErrAlreadyExists) || !strings.Contains(err.Error(), "task b") {
		t.Errorf("port of another task: got %v, want already exists with the task", err)
	}
	// The failed attach has released what it had allocated.
	if r := w.attach("a", bridge.Port{Target: 80}); r.Ports[0].Published != 30000 {
		t.Errorf("chosen port: %+v", r.Ports)
	}
	// No other program can bind a published port.
	if err := w.host.Do(func() error {
		l, err := net.Listen("tcp4", "127.0.0.1:8080")
		if err == nil {
			l.Close()
		}
		return err
	}); err == nil {
		t.Error("another program could listen on a published port")
	}
	_, err = w.tryAttach(bridge.Attachment{TaskID: "c", Ports: []bridge.Port{{Published: 1, Target: 80, HostIP: netip.MustParseAddr("10.9.9.9")}}})
	if !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("address that is not the host's: got %v", err)
	}
}

func TestAttach_IsIdempotentAndIsolatedTasksHaveLoopbackOnly(t *testing.T) {
	w := newWorld(t)
	first := w.attach("a", bridge.Port{Target: 80})
	if diff := cmp.Diff(first, w.attach("a", bridge.Port{Target: 80}), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("attached again (-first +second):\n%s", diff)
	}
	r, err := w.tryAttach(bridge.Attachment{TaskID: "n", LoopbackOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	if err := w.in(r).Do(func() error {
		list, err := net.Interfaces()
		for _, i := range list {
			if i.Flags&net.FlagUp != 0 {
				names = append(names, i.Name)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"lo"}, names); diff != "" {
		t.Errorf("interfaces that are up (-want +got):\n%s", diff)
	}
	for _, bad := range []bridge.Attachment{
		{TaskID: ""},
		{TaskID: "../x"},
		{TaskID: "p", Ports: []bridge.Port{{Published: 1}}},
		{TaskID: "p", Ports: []bridge.Port{{Target: 1, Protocol: "icmp"}}},
		{TaskID: "p", LoopbackOnly: true, Ports: []bridge.Port{{Target: 1}}},
	} {
		if _, err := w.tryAttach(bad); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("attach %+v: got %v, want invalid argument", bad, err)
		}
	}
}

func TestDetach_LastUseLeavesNothing(t *testing.T) {
	w := newWorld(t)
	forward := func() string {
		v, err := w.host.Sysctl("ipv4.ip_forward")
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	w.attach("a", bridge.Port{Target: 80})
	w.attach("b")
	w.detach("a")
	if forward() != "1" {
		t.Error("forwarding is off while the network is in use")
	}
	w.detach("b")
	w.detach("b")
	if got := w.remains(); got != "" {
		t.Errorf("left:\n%s", got)
	}
	if forward() != "0" {
		t.Error("forwarding is left on")
	}
	if r := w.attach("c"); r.Address.Addr().String() != "172.30.0.4" {
		t.Errorf("the next address is %s: one given back came up too early", r.Address)
	}
}

func TestRestore_KeepsTheLivingAndRemovesTheRest(t *testing.T) {
	w := newWorld(t)
	a := w.attach("a", bridge.Port{Published: 8080, Target: 80}, bridge.Port{Target: 80})
	b := w.attach("b", bridge.Port{Published: 8090, Target: 80})
	gone := w.attach("gone", bridge.Port{Published: 8070, Target: 80})
	w.serve(a, "a", 80)
	w.serve(b, "b", 80)
	w.restart()
	wantAnswer(t, "without a daemon", w.client, hostAddr+":8080", "a "+clientAddr)
	// While no daemon runs, b's cable is removed and the rules are flushed.
	w.do(func() error { return errors.Join(deleteInside(b.Netns, "eth0"), flushRules()) })
	keep := []bridge.Existing{
		{Attachment: bridge.Attachment{TaskID: "a", Ports: []bridge.Port{{Published: 8080, Target: 80}, {Target: 80}}}, Result: a},
		{Attachment: bridge.Attachment{TaskID: "b", Ports: []bridge.Port{{Published: 8090, Target: 80}}}, Result: b},
	}
	w.do(func() error { return w.b.Restore(context.Background(), keep) })
	wantAnswer(t, "a kept", w.client, hostAddr+":8080", "a "+clientAddr)
	wantAnswer(t, "a kept its chosen port", w.client, fmt.Sprintf("%s:%d", hostAddr, a.Ports[1].Published), "a "+clientAddr)
	wantAnswer(t, "b mended", w.client, hostAddr+":8090", "b "+clientAddr)
	if netns.Pinned(gone.Netns) {
		t.Error("the namespace of a task that is gone is still pinned")
	}
	if r := w.attach("new", bridge.Port{Published: 8070, Target: 80}); r.Address == a.Address || r.Address == b.Address {
		t.Errorf("a held address was given again: %s", r.Address)
	}
	w.restart()
	w.do(func() error { return w.b.Restore(context.Background(), nil) })
	if got := w.remains(); got != "" {
		t.Errorf("restore of nothing left:\n%s", got)
	}
}

func TestForward_ChainsOfOthersThatDrop(t *testing.T) {
	w := newWorld(t)
	w.do(func() error { return dropForwarding("ip", "filter", "FORWARD", true) })
	w.do(func() error { return dropForwarding("inet", "mine", "forward", false) })
	a := w.attach("a", bridge.Port{Published: 8080, Target: 80})
	w.serve(a, "a", 80)
	wantAnswer(t, "through others' drop policies", w.client, hostAddr+":8080", "a "+clientAddr)
	w.detach("a")
	if got := w.remains(); got != "" {
		t.Errorf("left:\n%s", got)
	}
}

func TestRun_MendsWhatOthersFlush(t *testing.T) {
	w := newWorld(t)
	a := w.attach("a", bridge.Port{Published: 8080, Target: 80})
	w.serve(a, "a", 80)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- w.host.Do(func() error { return w.b.Run(ctx) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, 30*time.Second, "the port answers again after a flush", func() bool {
		// Run may not be listening yet when the first flush happens.
		if err := w.host.Do(flushOthers); err != nil {
			t.Fatal(err)
		}
		got, _ := ask(w.client, hostAddr+":8080")
		return got == "a "+clientAddr
	})
}

func eventually(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(d)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", d, what)
		}
		<-tick.C
	}
}
