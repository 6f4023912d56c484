//go:build linux

package resolve

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"

	swarmv1 "swarm/proto/swarm/v1"
)

// Whether a query is forwarded depends on the container's configuration and on the names in its
// zones.
func TestLocal_Forwarding(t *testing.T) {
	n := testZones(t)
	for _, tc := range []struct {
		name       string
		c          *swarmv1.ResolverContainer
		asks, kind string
		want       string
	}{
		{"without a dot, as Docker does", &swarmv1.ResolverContainer{}, "printer", "A", "forwarded"},
		{"without a dot, ndots set", &swarmv1.ResolverContainer{SearchFirst: true}, "printer", "A", "NOERROR[]"},
		{"without a dot, ndots set", &swarmv1.ResolverContainer{SearchFirst: true}, "printer", "AAAA", "NOERROR[]"},
		{"a name of type NS", &swarmv1.ResolverContainer{SearchFirst: true}, "com", "NS", "forwarded"},
		{"with a dot, ndots set", &swarmv1.ResolverContainer{SearchFirst: true}, "printer.example.com", "A", "forwarded"},
		{"known, ndots set", &swarmv1.ResolverContainer{SearchFirst: true}, "db", "A", "NOERROR[10.0.2.2]"},
		{"known, of the other family", &swarmv1.ResolverContainer{}, "db", "AAAA", "NOERROR[]"},
		{"known, in other letters", &swarmv1.ResolverContainer{}, "DB.Back", "A", "NOERROR[10.0.2.2]"},
		{"a network with the name of a domain", &swarmv1.ResolverContainer{}, "go.back", "A", "forwarded"},
		{"an address that nobody has", &swarmv1.ResolverContainer{}, "99.1.0.10.in-addr.arpa", "PTR", "NXDOMAIN[]"},
		{"internal", &swarmv1.ResolverContainer{Internal: true}, "printer", "A", "NXDOMAIN[]"},
		{"internal", &swarmv1.ResolverContainer{Internal: true}, "1.1.1.1.in-addr.arpa", "PTR", "NXDOMAIN[]"},
		{"internal, own servers", &swarmv1.ResolverContainer{Internal: true, Upstreams: []string{"10.0.1.5"}}, "example.com", "A", "forwarded"},
		{"internal, own servers", &swarmv1.ResolverContainer{Internal: true, Upstreams: []string{"10.0.1.5"}}, "1.1.1.1.in-addr.arpa", "PTR", "forwarded"},
		{"internal, own servers", &swarmv1.ResolverContainer{Internal: true, Upstreams: []string{"10.0.1.5"}}, "99.1.0.10.in-addr.arpa", "PTR", "NXDOMAIN[]"},
	} {
		tc.c.NetworkIds = []string{"n1", "n2"}
		if got := ask(n, tc.c, tc.asks, tc.kind); got != tc.want {
			t.Errorf("%s: %s %s: got %s, want %s", tc.name, tc.asks, tc.kind, got, tc.want)
		}
	}
}

// Hostnames of containers resolve as in Docker: after services and aliases, and to all containers
// that share one. The reverse look-up of a container's address returns the task's name.
func TestLocal_HostnamesOfContainers(t *testing.T) {
	n := testZones(t)
	for _, s := range []*swarmv1.ResolverService{
		{NetworkId: "n1", ServiceId: "s6", Name: "etcd", Tasks: []*swarmv1.ResolverTask{
			{Name: "etcd.1.g", Slot: 1, Addresses: []string{"10.0.1.21", "fd00:1::21"}, Hostname: "Etcd-1"},
			{Name: "etcd.2.h", Slot: 2, Addresses: []string{"10.0.1.22"}, Hostname: "etcd-2", Ready: true},
		}},
		{NetworkId: "n1", ServiceId: "s7", Name: "worker", VirtualIps: []string{"10.0.1.30"}, Tasks: []*swarmv1.ResolverTask{
			{Name: "worker.1.i", Slot: 1, Addresses: []string{"10.0.1.31"}, Hostname: "shared", Ready: true},
			{Name: "worker.2.j", Slot: 2, Addresses: []string{"10.0.1.32"}, Hostname: "shared"},
			{Name: "worker.3.k", Slot: 3, Addresses: []string{"10.0.1.33"}, Hostname: "shared", Ready: true},
			{Name: "worker.4.l", Slot: 4, Addresses: []string{"10.0.1.34"}, Hostname: "worker", Ready: true},
			{Name: "worker.5.m", Slot: 5, Addresses: []string{"10.0.1.35"}, Hostname: "second", Ready: true},
		}},
	} {
		parsed, err := parseService(s)
		if err != nil {
			t.Fatal(err)
		}
		n["n1"].setService(s.ServiceId, parsed)
	}
	c := &swarmv1.ResolverContainer{NetworkIds: []string{"n1"}}
	for _, tc := range []struct{ name, kind, want string }{
		{"etcd-1", "A", "NOERROR[10.0.1.21]"}, // not ready yet, but needed by other containers
		{"etcd-1", "AAAA", "NOERROR[fd00:1::21]"},
		{"ETCD-2.front", "A", "NOERROR[10.0.1.22]"},
		{"etcd-2", "AAAA", "NOERROR[]"},
		{"shared", "A", "NOERROR[10.0.1.31 10.0.1.33]"},
		{"worker", "A", "NOERROR[10.0.1.30]"},
		{"second", "A", "NOERROR[10.0.1.4]"}, // a task's alias
		{"tasks.shared", "A", "forwarded"},
		{"21.1.0.10.in-addr.arpa", "PTR", "NOERROR[etcd.1.g.front.]"},
	} {
		if got := ask(n, c, tc.name, tc.kind); got != tc.want {
			t.Errorf("%s %s: got %s, want %s", tc.name, tc.kind, got, tc.want)
		}
	}
	n["n1"].setService("s6", nil)
	if got := ask(n, c, "etcd-1", "A"); got != "forwarded" {
		t.Errorf("a hostname outlives its service: got %s", got)
	}
}

// A service keeps its names while it has no task, and queries for them are not forwarded.
func TestService_NamesWithoutTasks(t *testing.T) {
	on := []*swarmv1.NetworkAttachment{{NetworkId: "n1", Aliases: []string{"store"}}, {NetworkId: "n2"}}
	vip := &swarmv1.Endpoint{VirtualIps: []*swarmv1.VirtualIP{{NetworkId: "n1", Addr: "10.0.1.40/24"}}}
	c := &swarmv1.ResolverContainer{NetworkIds: []string{"n1"}}
	for _, tc := range []struct {
		endpoint *swarmv1.Endpoint
		want     string
	}{{vip, "NOERROR[10.0.1.40]"}, {nil, "NOERROR[]"}} {
		n := testZones(t)
		parsed, err := parseService(Service("n1", &swarmv1.Routing{ServiceId: "s", Name: "cache", Endpoint: tc.endpoint, Networks: on}, nil))
		if err != nil {
			t.Fatal(err)
		}
		n["n1"].setService("s", parsed)
		for _, name := range []string{"cache", "store", "STORE.Front"} {
			if got := ask(n, c, name, "A"); got != tc.want {
				t.Errorf("%s: got %s, want %s", name, got, tc.want)
			}
		}
		if got := ask(n, c, "tasks.cache", "A"); got != "NOERROR[]" {
			t.Errorf("tasks.cache: got %s", got)
		}
	}
}

// An answer with 200 tasks does not fit into a small datagram. It is truncated, so that clients
// repeat the query over TCP. A client that accepts more gets more.
func TestServer_LargeAnswers(t *testing.T) {
	r := newRig(t)
	big := &swarmv1.ResolverService{NetworkId: "n1", ServiceId: "s1", Name: "big", VirtualIps: []string{"10.0.9.1"}}
	for i := range 200 {
		big.Tasks = append(big.Tasks, &swarmv1.ResolverTask{
			Name: fmt.Sprint("big.", i+1, ".x"), Slot: uint64(i + 1), Addresses: []string{fmt.Sprint("10.0.8.", i+1)}, Ready: true,
		})
	}
	r.feed.SetNetwork(&swarmv1.ResolverNetwork{Id: "n1", Name: "front"})
	r.feed.SetService(big)
	r.waitApplied()
	a := r.start(&swarmv1.ResolverContainer{Id: "a", NetworkIds: []string{"n1"}})
	for _, tc := range []struct {
		network   string
		size      uint16
		truncated bool
		least     int
	}{{"udp", 0, true, 20}, {"udp", 1232, true, 60}, {"udp", 4096, false, 200}, {"tcp", 0, false, 200}} {
		m := a.exchange(tc.network, "Tasks.Big", tc.size)
		seen := map[string]bool{}
		for _, rr := range m.Answer {
			seen[rr.(*dns.A).A.String()] = true
		}
		if m.Truncated != tc.truncated || len(seen) < tc.least || len(seen) != len(m.Answer) {
			t.Errorf("%s %d: %d addresses, truncated %t; want %d, %t", tc.network, tc.size, len(seen), m.Truncated, tc.least, tc.truncated)
		}
		if m.Question[0].Name != "Tasks.Big." {
			t.Errorf("%s %d: the question in the answer is %s", tc.network, tc.size, m.Question[0].Name)
		}
		if opt := m.IsEdns0(); (opt != nil) != (tc.size > 0) {
			t.Errorf("%s %d: EDNS in the answer: %v", tc.network, tc.size, opt)
		}
	}
}

// The own name servers of an internal container are queried only from inside its namespace.
func TestServer_InternalContainersQueryOnlyFromInside(t *testing.T) {
	outside := newFakeUpstream(t, "192.0.2.1")
	r := newRig(t, outside.addr)
	r.setServices()
	c := r.start(&swarmv1.ResolverContainer{Id: "c", NetworkIds: []string{"n1"}, Internal: true})
	var inside *fakeUpstream
	if err := c.ns.Do(func() error { inside = newFakeUpstream(t, "192.0.2.7"); return nil }); err != nil {
		t.Fatal(err)
	}
	own := &swarmv1.ResolverContainer{Id: "c", Netns: c.cfg.Netns, NetworkIds: []string{"n1"}, Internal: true, Upstreams: []string{inside.addr, outside.addr}}
	if err := r.feed.Serve(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	c.expect("www.example.com", "192.0.2.7")
	own = own.CloneVT()
	own.Upstreams = []string{outside.addr} // nobody has this address in the container's namespace
	if err := r.feed.Serve(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	c.expect("ftp.example.com", "SERVFAIL")
	if n := outside.asked.Load(); n != 0 {
		t.Errorf("%d queries of an internal container were forwarded to the host's server", n)
	}
}

// exchange sends a query from inside the container, with EDNS if size is not 0.
func (b *testContainer) exchange(network, name string, size uint16) *dns.Msg {
	b.r.t.Helper()
	req := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
	if size > 0 {
		req.SetEdns0(size, false)
	}
	var m *dns.Msg
	err := b.ns.Do(func() error {
		c, err := net.DialTimeout(network, "127.0.0.11:53", time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		client := dns.Client{Net: network, Timeout: 3 * time.Second}
		m, _, err = client.ExchangeWithConn(req, &dns.Conn{Conn: c, UDPSize: max(size, dns.MinMsgSize)})
		return err
	})
	if err != nil {
		b.r.t.Fatal(err)
	}
	return m
}
