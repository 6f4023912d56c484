//go:build linux

package resolve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/miekg/dns"
	"google.golang.org/protobuf/testing/protocmp"

	"swarm/internal/eventually"
	"swarm/overlay/netns"
	"swarm/overlay/nft"
	swarmv1 "swarm/proto/swarm/v1"
)

// rig is a server with a feed and containers.
type rig struct {
	t            testing.TB
	dir          string
	servers      []string
	feed         *Feed
	server       *Server
	stopS, stopF func()
}

func newRig(t testing.TB, hostServers ...string) *rig {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: containers are network namespaces")
	}
	// The path of a unix socket must be short.
	dir, err := os.MkdirTemp("", "resolve")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &rig{t: t, dir: dir, servers: hostServers}
	r.startServer()
	r.startFeed()
	t.Cleanup(func() { r.stopServer() })
	t.Cleanup(func() { r.stopFeed() })
	return r
}

func (r *rig) startServer() {
	log := slog.New(slog.DiscardHandler)
	r.server = New(Config{Socket: filepath.Join(r.dir, "s"), ResolvConf: newTestUpstream(r.t, append(r.servers, "127.0.0.1:1")...).path}, Deps{Log: log})
	r.stopS = run(r.t, r.server.Run)
}

func (r *rig) startFeed() {
	r.feed = NewFeed(FeedConfig{Socket: filepath.Join(r.dir, "s")}, Deps{Log: slog.New(slog.DiscardHandler)})
	r.stopF = run(r.t, r.feed.Run)
}

func (r *rig) stopServer() { r.stopS() }
func (r *rig) stopFeed()   { r.stopF() }

// run runs fn until the function that it returns is called.
func run(t testing.TB, fn func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// setServices sends two networks with a service each.
func (r *rig) setServices() {
	r.t.Helper()
	r.feed.SetNetwork(&swarmv1.ResolverNetwork{Id: "n1", Name: "front", Subnets: []string{"10.0.1.0/24"}})
	r.feed.SetNetwork(&swarmv1.ResolverNetwork{Id: "n2", Name: "back"})
	r.web("10.0.1.2")
	r.feed.SetService(&swarmv1.ResolverService{NetworkId: "n2", ServiceId: "s2", Name: "db", VirtualIps: []string{"10.0.2.2"}})
	r.waitApplied()
}

func (r *rig) web(vip string) {
	r.feed.SetService(&swarmv1.ResolverService{NetworkId: "n1", ServiceId: "s1", Name: "web", VirtualIps: []string{vip}})
}

func (r *rig) stats() *swarmv1.ResolverStats {
	r.t.Helper()
	s, err := r.server.Stats(r.t.Context(), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rig) waitApplied() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.feed.Applied(ctx); err != nil {
		r.t.Fatal(err)
	}
}

// testContainer is a network namespace that the server serves.
type testContainer struct {
	r   *rig
	cfg *swarmv1.ResolverContainer
	ns  *netns.Namespace
}

func (r *rig) start(cfg *swarmv1.ResolverContainer) *testContainer {
	r.t.Helper()
	cfg.Netns = filepath.Join(r.dir, cfg.Id+".ns")
	if err := netns.Create(cfg.Netns); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = netns.Delete(cfg.Netns) })
	ns, err := netns.Open(cfg.Netns)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { ns.Close() })
	if err := r.feed.Serve(r.t.Context(), cfg); err != nil {
		r.t.Fatal(err)
	}
	return &testContainer{r: r, cfg: cfg, ns: ns}
}

// ask sends a query to 127.0.0.11 from inside the container.
func (b *testContainer) ask(network, name string) string {
	b.r.t.Helper()
	answer := ""
	err := b.ns.Do(func() error {
		c, err := net.DialTimeout(network, "127.0.0.11:53", time.Second)
		if err != nil {
			answer = err.Error()
			return nil
		}
		defer c.Close()
		client := dns.Client{Net: network, Timeout: 3 * time.Second}
		m, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA), &dns.Conn{Conn: c})
		if err != nil {
			answer = err.Error()
			return nil
		}
		answer = dns.RcodeToString[m.Rcode]
		for _, rr := range m.Answer {
			if a, ok := rr.(*dns.A); ok {
				answer = a.A.String()
			}
		}
		return nil
	})
	if err != nil {
		b.r.t.Fatal(err)
	}
	return answer
}

func (b *testContainer) expect(name, want string) {
	b.r.t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		if got := b.ask(network, name); got != want {
			b.r.t.Errorf("%s looks %s up over %s: got %s, want %s", b.cfg.Id, name, network, got, want)
		}
	}
}

func TestServer_AnswersInsideContainers(t *testing.T) {
	o := newFakeUpstream(t, "192.0.2.1")
	r := newRig(t, o.addr)
	r.setServices()
	a := r.start(&swarmv1.ResolverContainer{Id: "a", NetworkIds: []string{"n1"}})
	b := r.start(&swarmv1.ResolverContainer{Id: "b", NetworkIds: []string{"n2"}})
	in := r.start(&swarmv1.ResolverContainer{Id: "in", NetworkIds: []string{"n1"}, Internal: true})
	a.expect("web", "10.0.1.2")
	a.expect("www.example.com", "192.0.2.1")
	a.expect("none.example.com", "NXDOMAIN")
	b.expect("db", "10.0.2.2")
	in.expect("web", "10.0.1.2")
	in.expect("www.example.com", "NXDOMAIN")
	asked := o.asked.Load()
	in.expect("db", "NXDOMAIN")
	if o.asked.Load() != asked {
		t.Error("a query of an internal container was forwarded")
	}
	// The container may run a name server of its own on all addresses.
	err := a.ns.Do(func() error {
		l, err := net.ListenPacket("udp", ":53")
		if err != nil {
			return err
		}
		defer l.Close()
		a.expect("web", "10.0.1.2")
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	stats, err := r.server.Stats(t.Context(), nil)
	if err != nil || stats.Queries < 10 || stats.Forwarded == 0 || stats.Cached == 0 || stats.Containers != 3 || stats.Services != 2 {
		t.Errorf("stats: %v, %v", stats, err)
	}
}

// A container's own name servers are queried from inside its namespace.
func TestServer_OwnUpstreamsAreQueriedFromInside(t *testing.T) {
	r := newRig(t)
	c := r.start(&swarmv1.ResolverContainer{Id: "c", NetworkIds: []string{"n1"}})
	var o *fakeUpstream
	if err := c.ns.Do(func() error { o = newFakeUpstream(t, "192.0.2.7"); return nil }); err != nil {
		t.Fatal(err)
	}
	c.expect("www.example.com", "SERVFAIL")
	own := &swarmv1.ResolverContainer{Id: "c", Netns: c.cfg.Netns, NetworkIds: []string{"n1"}, Upstreams: []string{o.addr}}
	if err := r.feed.Serve(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	c.expect("www.example.com", "192.0.2.7")
}

func TestServer_KeepsAnsweringWhileTheDaemonIsAway(t *testing.T) {
	r := newRig(t)
	r.setServices()
	a := r.start(&swarmv1.ResolverContainer{Id: "a", NetworkIds: []string{"n1"}})
	stop, wrong := make(chan struct{}), make(chan string, 1)
	go func() {
		defer close(wrong)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if got := a.ask("udp", "web"); got != "10.0.1.2" {
				wrong <- got
				return
			}
		}
	}()
	for range 10 {
		r.stopFeed()
		// The new daemon sends the same state. The feed sends the container, which it learns of
		// last, in the same full update.
		r.feed = NewFeed(FeedConfig{Socket: filepath.Join(r.dir, "s")}, Deps{Log: slog.New(slog.DiscardHandler)})
		r.feed.SetNetwork(&swarmv1.ResolverNetwork{Id: "n1", Name: "front"})
		r.web("10.0.1.2")
		r.feed.SetContainer(a.cfg)
		r.stopF = run(t, r.feed.Run)
		r.waitApplied()
	}
	close(stop)
	if got, ok := <-wrong; ok {
		t.Errorf("while daemons came and went: got %s", got)
	}
}

// A container's queries are counted by the network that answers, for as long as the container is
// served.
func TestServer_CountsQueries(t *testing.T) {
	r := newRig(t)
	r.setServices()
	a := r.start(&swarmv1.ResolverContainer{Id: "a", NetworkIds: []string{"n1", "n2"}})
	a.expect("web", "10.0.1.2") // over UDP, and over TCP
	a.ask("udp", "db")
	a.ask("udp", "db.back")
	a.ask("udp", "9.1.0.10.in-addr.arpa") // nobody has this address, but it is in the network's subnet
	a.ask("udp", "www.example.com")
	counts := func(want ...*swarmv1.ResolverAskedNetwork) {
		t.Helper()
		got := r.stats()
		asked := []*swarmv1.ResolverAsked{{ContainerId: "a", Networks: want, Elsewhere: 1}}
		if diff := cmp.Diff(asked, got.Asked, protocmp.Transform()); diff != "" || got.Queries != 6 {
			t.Errorf("%d queries: %s", got.Queries, diff)
		}
	}
	front, back := &swarmv1.ResolverAskedNetwork{NetworkId: "n1", Queries: 3}, &swarmv1.ResolverAskedNetwork{NetworkId: "n2", Queries: 2}
	counts(front, back)
	// A new daemon sends the container again.
	again := &swarmv1.ResolverContainer{Id: "a", Netns: a.cfg.Netns, NetworkIds: []string{"n2", "n3", "n1"}}
	if err := r.feed.Serve(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	counts(back, &swarmv1.ResolverAskedNetwork{NetworkId: "n3"}, front)
}

func TestFeed_SendsEverythingToANewServer(t *testing.T) {
	r := newRig(t)
	r.setServices()
	a := r.start(&swarmv1.ResolverContainer{Id: "a", NetworkIds: []string{"n1"}})
	a.expect("web", "10.0.1.2")
	// The next server must also answer a client that keeps its socket.
	var client net.Conn
	if err := a.ns.Do(func() (err error) { client, err = net.Dial("udp", "127.0.0.11:53"); return err }); err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ask := func() error {
		c := dns.Client{Timeout: 200 * time.Millisecond}
		m, _, err := c.ExchangeWithConn(new(dns.Msg).SetQuestion("web.", dns.TypeA), &dns.Conn{Conn: client})
		if err == nil && len(m.Answer) != 1 {
			err = errors.New(m.String())
		}
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		r.stopServer()
		r.startServer()
		eventually.Nil(t, "the new server answers", ask)
		vip := fmt.Sprint("10.0.1.", 10+i)
		r.web(vip)
		r.waitApplied()
		a.expect("web", vip)
	}
	r.feed.RemoveService("n1", "s1")
	r.waitApplied()
	a.expect("web", "SERVFAIL")
}

// The redirect in the container need not change for the next server.
func TestFeed_NewServerKeepsTheRedirect(t *testing.T) {
	r := newRig(t)
	r.setServices()
	a := r.start(&swarmv1.ResolverContainer{Id: "a", NetworkIds: []string{"n1"}})
	port := r.server.containers["a"].port()
	conn := nft.Conn{Netns: a.cfg.Netns}
	if err := conn.Do(func(c *nftables.Conn) error {
		known, err := hasRedirect(c, port)
		others, err2 := hasRedirect(c, port+1)
		if !known || others {
			t.Errorf("the redirect to port %d: known %t, and to the next one: %t", port, known, others)
		}
		return errors.Join(err, err2)
	}); err != nil {
		t.Error(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	r.stopServer()
	r.startServer()
	r.web("10.0.1.7")
	r.waitApplied()
	a.expect("web", "10.0.1.7")
	if got := r.server.containers["a"].port(); got != port {
		t.Errorf("port of the new server: got %d, want %d", got, port)
	}
	// The server chooses another port if its old one is in use.
	r.stopServer()
	var taken net.PacketConn
	err := a.ns.Do(func() (err error) {
		taken, err = net.ListenPacket("udp4", fmt.Sprint("127.0.0.11:", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	r.startServer()
	r.web("10.0.1.8")
	r.waitApplied()
	a.expect("web", "10.0.1.8")
}

func TestFeed_RemoveContainerFreesTheNamespace(t *testing.T) {
	r := newRig(t)
	r.setServices()
	a := r.start(&swarmv1.ResolverContainer{Id: "a", NetworkIds: []string{"n1"}})
	a.expect("web", "10.0.1.2")
	r.feed.RemoveContainer("a")
	r.waitApplied()
	if s := r.stats(); s.Containers != 0 || len(s.Asked) != 0 {
		t.Errorf("after RemoveContainer: got %v", s)
	}
	if got := a.ask("udp", "web"); got == "10.0.1.2" {
		t.Error("a removed container is answered")
	}
	// A container with the same ID in another namespace is a new container.
	if err := netns.Delete(a.cfg.Netns); err != nil {
		t.Fatal(err)
	}
	again := r.start(&swarmv1.ResolverContainer{Id: "a", NetworkIds: []string{"n1"}})
	again.expect("web", "10.0.1.2")
	if err := r.feed.Serve(t.Context(), &swarmv1.ResolverContainer{Id: "lost", Netns: filepath.Join(r.dir, "lost")}); err == nil {
		t.Error("a container without a namespace is served")
	}
	again.expect("web", "10.0.1.2")
}
