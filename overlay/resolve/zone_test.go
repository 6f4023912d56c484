//go:build linux

package resolve

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"google.golang.org/protobuf/testing/protocmp"

	swarmv1 "swarm/proto/swarm/v1"
)

// testZones has two networks: front (web with a virtual IP, pool without one, both dual stack) and
// back (db).
func testZones(t testing.TB) zones {
	t.Helper()
	n := zones{"n1": newZone(), "n2": newZone()}
	for _, net := range []*swarmv1.ResolverNetwork{
		{Id: "n1", Name: "Front", Subnets: []string{"10.0.1.0/24", "fd00:1::/64"}},
		{Id: "n2", Name: "back", Subnets: []string{"10.0.2.0/24"}},
	} {
		if err := n[net.Id].setNetwork(net); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []*swarmv1.ResolverService{
		{
			NetworkId: "n1", ServiceId: "s1", Name: "web", Aliases: []string{"WWW", "web"}, VirtualIps: []string{"10.0.1.2", "fd00:1::2"},
			Ports: []*swarmv1.ResolverPort{{Name: "http", Protocol: "tcp", Port: 80}},
			Tasks: []*swarmv1.ResolverTask{
				{Name: "web.1.a", Slot: 1, Addresses: []string{"10.0.1.3", "fd00:1::3"}, Ready: true},
				{Name: "web.2.b", Slot: 2, Addresses: []string{"10.0.1.4", "fd00:1::4"}, Ready: true, Aliases: []string{"second"}},
				{Name: "web.2.c", Slot: 2, Addresses: []string{"10.0.1.5", "fd00:1::5"}, Aliases: []string{"second"}},
			},
		},
		{
			NetworkId: "n1", ServiceId: "s2", Name: "pool", Aliases: []string{"www"},
			Ports: []*swarmv1.ResolverPort{{Protocol: "udp", Port: 9}},
			Tasks: []*swarmv1.ResolverTask{
				{Name: "pool.1.d", Slot: 1, Addresses: []string{"10.0.1.7"}, Ready: true},
				{Name: "pool.2.e", Slot: 2, Addresses: []string{"10.0.1.8"}, Ready: true},
			},
		},
		{NetworkId: "n1", ServiceId: "s3", Name: "idle", Tasks: []*swarmv1.ResolverTask{{Name: "idle.1.f", Slot: 1, Addresses: []string{"10.0.1.9"}}}},
		{NetworkId: "n2", ServiceId: "s4", Name: "db", VirtualIps: []string{"10.0.2.2"}},
		{NetworkId: "n2", ServiceId: "s5", Name: "web", VirtualIps: []string{"10.0.2.3"}},
	} {
		parsed, err := parseService(s)
		if err != nil {
			t.Fatal(err)
		}
		n[s.NetworkId].setService(s.ServiceId, parsed)
	}
	return n
}

// ask returns the answer as text: its code, and the data of each record in order. It returns
// "forwarded" if the query must be forwarded.
func ask(n zones, c *swarmv1.ResolverContainer, name, kind string) string {
	req := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[kind])
	m, _ := n.local(c, req)
	if m == nil {
		return "forwarded"
	}
	var data []string
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			data = append(data, rr.A.String())
		case *dns.AAAA:
			data = append(data, rr.AAAA.String())
		case *dns.PTR:
			data = append(data, rr.Ptr)
		case *dns.SRV:
			data = append(data, fmt.Sprintf("%s:%d", rr.Target, rr.Port))
		}
	}
	slices.Sort(data)
	return fmt.Sprint(dns.RcodeToString[m.Rcode], data)
}

func TestLocal_Names(t *testing.T) {
	n := testZones(t)
	both := []string{"n1", "n2"}
	for _, tc := range []struct {
		networks   []string
		name, kind string
		want       string
	}{
		{both, "web", "A", "NOERROR[10.0.1.2]"},
		{both, "WeB", "AAAA", "NOERROR[fd00:1::2]"},
		{[]string{"n2", "n1"}, "web", "A", "NOERROR[10.0.2.3]"},
		{both, "web.back", "A", "NOERROR[10.0.2.3]"},
		{both, "web.front", "A", "NOERROR[10.0.1.2]"},
		{both, "tasks.web", "A", "NOERROR[10.0.1.3 10.0.1.4]"},
		{both, "tasks.web.front", "AAAA", "NOERROR[fd00:1::3 fd00:1::4]"},
		{both, "pool", "A", "NOERROR[10.0.1.7 10.0.1.8]"},
		{both, "pool", "AAAA", "NOERROR[]"},
		{both, "pool", "MX", "NOERROR[]"},
		{both, "pool", "HTTPS", "NOERROR[]"},
		{both, "tasks.pool", "A", "NOERROR[10.0.1.7 10.0.1.8]"},
		{both, "www", "A", "NOERROR[10.0.1.2 10.0.1.7 10.0.1.8]"},
		{both, "web.1.a", "A", "NOERROR[10.0.1.3]"},
		{both, "web.2.c", "A", "NOERROR[10.0.1.5]"},
		{both, "2.web", "A", "NOERROR[10.0.1.4]"},
		{both, "1.idle", "A", "NOERROR[10.0.1.9]"},
		{both, "second", "A", "NOERROR[10.0.1.4]"},
		{both, "idle", "A", "NOERROR[]"},
		{both, "tasks.idle", "A", "NOERROR[]"},
		{both, "3.web", "A", "forwarded"},
		{both, "tasks.nobody", "A", "forwarded"},
		{both, "example.com", "A", "forwarded"},
		{[]string{"n2"}, "pool", "A", "forwarded"},
		{[]string{"n2"}, "web.front", "A", "forwarded"},
		{[]string{"n1"}, "db", "A", "forwarded"},
		{nil, "web", "A", "forwarded"},
		{both, "_http._tcp.web", "SRV", "NOERROR[web.:80]"},
		{both, "_80._tcp.web", "SRV", "NOERROR[web.:80]"},
		{both, "_http._tcp.tasks.web", "SRV", "NOERROR[web.1.a.:80 web.2.b.:80]"},
		{both, "_9._udp.pool", "SRV", "NOERROR[pool.1.d.:9 pool.2.e.:9]"},
		{both, "_http._udp.web", "SRV", "forwarded"},
		{both, "3.1.0.10.in-addr.arpa", "PTR", "NOERROR[web.1.a.front.]"},
		{both, "2.1.0.10.in-addr.arpa", "PTR", "NOERROR[web.front.]"},
		{both, "4.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa", "PTR", "NOERROR[web.2.b.front.]"},
		{both, "4.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa", "PTR", "forwarded"},
		{both, "99.1.0.10.in-addr.arpa", "PTR", "NXDOMAIN[]"},
		{[]string{"n2"}, "3.1.0.10.in-addr.arpa", "PTR", "forwarded"},
		{both, "1.1.1.1.in-addr.arpa", "PTR", "forwarded"},
	} {
		if got := ask(n, &swarmv1.ResolverContainer{NetworkIds: tc.networks}, tc.name, tc.kind); got != tc.want {
			t.Errorf("on %v: %s %s: got %s, want %s", tc.networks, tc.name, tc.kind, got, tc.want)
		}
	}
	arpa, err := dns.ReverseAddr("fd00:1::4")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := ask(n, &swarmv1.ResolverContainer{NetworkIds: both}, arpa, "PTR"), "NOERROR[web.2.b.front.]"; got != want {
		t.Errorf("%s: got %s, want %s", arpa, got, want)
	}
	inside := &swarmv1.ResolverContainer{NetworkIds: both, Internal: true}
	for name, kind := range map[string]string{"example.com": "A", "1.1.1.1.in-addr.arpa": "PTR"} {
		if got := ask(n, inside, name, kind); got != "NXDOMAIN[]" {
			t.Errorf("internal: %s: got %s", name, got)
		}
	}
}

// A service that is added and removed leaves nothing behind, and does not change the names of
// others.
func TestZone_PutAndRemove(t *testing.T) {
	n := testZones(t)
	z := n["n1"]
	c := &swarmv1.ResolverContainer{NetworkIds: []string{"n1"}}
	z.setService("s1", nil)
	if got := ask(n, c, "www", "A"); got != "NOERROR[10.0.1.7 10.0.1.8]" {
		t.Errorf("www after web is gone: got %s", got)
	}
	if got := ask(n, c, "web.1.a", "A"); got != "forwarded" {
		t.Errorf("web.1.a after web is gone: got %s", got)
	}
	z.setService("s2", nil)
	z.setService("s3", nil)
	z.setService("s3", nil)
	if len(z.names)+len(z.reverse)+len(z.services) != 0 {
		t.Errorf("left: %v %v %v", z.names, z.reverse, z.services)
	}
}

func TestLocal_AnswersAreShuffledAndCutToFit(t *testing.T) {
	s := &service{name: "big"}
	for i := range 200 {
		s.tasks = append(s.tasks, task{name: fmt.Sprint("big.", i), addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}, ready: true})
	}
	z := newZone()
	z.setService("s", s)
	n := zones{"n": z}
	c := &swarmv1.ResolverContainer{NetworkIds: []string{"n"}}
	firsts := make(map[string]bool)
	for range 100 {
		req := new(dns.Msg).SetQuestion("big.", dns.TypeA)
		answer, _ := n.local(c, req)
		b, err := pack(req, answer, false)
		if err != nil {
			t.Fatal(err)
		}
		m := new(dns.Msg)
		if err := m.Unpack(b); err != nil {
			t.Fatal(err)
		}
		if len(b) > 512 || !m.Truncated || len(m.Answer) < 20 {
			t.Fatalf("%d bytes, truncated %t, %d addresses", len(b), m.Truncated, len(m.Answer))
		}
		firsts[m.Answer[0].(*dns.A).A.String()] = true
	}
	if len(firsts) < 30 {
		t.Errorf("of 200 addresses %d came first in 100 answers", len(firsts))
	}
	req := new(dns.Msg).SetQuestion("big.", dns.TypeA)
	answer, _ := n.local(c, req)
	b, err := pack(req, answer, true)
	m := new(dns.Msg)
	if err != nil || m.Unpack(b) != nil || len(m.Answer) != 200 || m.Truncated {
		t.Errorf("over TCP: %d addresses, %v", len(m.Answer), err)
	}
}

func TestService_FromObjects(t *testing.T) {
	r := &swarmv1.Routing{ServiceId: "s", Name: "web", Endpoint: &swarmv1.Endpoint{
		Ports:      []*swarmv1.PortConfig{{Name: "http", Protocol: swarmv1.PortConfig_TCP, TargetPort: 80, PublishedPort: 8080}},
		VirtualIps: []*swarmv1.VirtualIP{{NetworkId: "n", Addr: "10.0.1.2/24"}, {NetworkId: "other", Addr: "10.0.9.2/24"}},
	}}
	on := func(id string, addrs ...string) []*swarmv1.NetworkAttachment {
		return []*swarmv1.NetworkAttachment{{NetworkId: id, Addresses: addrs, Aliases: []string{"www"}}}
	}
	got := Service("n", r, []*swarmv1.Backend{
		{TaskId: "b", NodeId: "node", Networks: on("n", "10.0.1.4/24"), Ready: true},
		{TaskId: "a", NodeId: "node", Slot: 2, Networks: on("n", "10.0.1.3/24", "fd00::3/64")},
		{TaskId: "c", NodeId: "node", Slot: 3, Networks: on("other", "10.0.9.3/24")},
	})
	want := &swarmv1.ResolverService{
		NetworkId: "n", ServiceId: "s", Name: "web", Aliases: []string{"www"}, VirtualIps: []string{"10.0.1.2"},
		Ports: []*swarmv1.ResolverPort{{Name: "http", Protocol: "tcp", Port: 80}},
		Tasks: []*swarmv1.ResolverTask{
			{Name: "web.2.a", Slot: 2, Addresses: []string{"10.0.1.3", "fd00::3"}},
			{Name: "web.node.b", Addresses: []string{"10.0.1.4"}, Ready: true},
		},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if got := Service("n", &swarmv1.Routing{ServiceId: "s", Name: "web"}, nil); got != nil {
		t.Errorf("a service that is not on the network: got %v", got)
	}
}

func FuzzLocal(f *testing.F) {
	for _, q := range []string{"web.", "_http._tcp.web.", "3.1.0.10.in-addr.arpa.", "tasks.web.front."} {
		b, err := new(dns.Msg).SetQuestion(q, dns.TypeANY).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	n := testZones(f)
	c := &swarmv1.ResolverContainer{NetworkIds: []string{"n1", "n2"}, Internal: true}
	f.Fuzz(func(t *testing.T, b []byte) {
		req, err := readQuery(b)
		if err != nil {
			return
		}
		m := rejection(req)
		if m == nil {
			m, _ = n.local(c, req)
		}
		if out, err := pack(req, m, false); err == nil && len(out) > maxUDP {
			t.Errorf("answer of %d bytes", len(out))
		}
	})
}
