//go:build linux

package resolve

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"swarm/internal/eventually"
	swarmv1 "swarm/proto/swarm/v1"
)

// fakeUpstream is a name server outside the cluster. It answers every A query with one address.
type fakeUpstream struct {
	addr  string
	asked atomic.Int64
	// silent and code change the answer. hold delays it while it is locked.
	silent atomic.Bool
	code   atomic.Int64
	hold   sync.RWMutex
}

func newFakeUpstream(t testing.TB, answer string) *fakeUpstream {
	t.Helper()
	o := &fakeUpstream{}
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", p.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	o.addr = p.LocalAddr().String()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
		o.asked.Add(1)
		if o.silent.Load() {
			return
		}
		o.hold.RLock()
		defer o.hold.RUnlock()
		m := new(dns.Msg).SetRcode(req, int(o.code.Load()))
		m.SetEdns0(1232, false)
		q := req.Question[0]
		if strings.HasPrefix(q.Name, "none.") {
			m.Rcode = dns.RcodeNameError
			m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "example.", Rrtype: dns.TypeSOA, Class: 1, Ttl: 100}, Ns: ".", Mbox: ".", Minttl: 20}}
		} else if m.Rcode == 0 && q.Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: 1, Ttl: 60}, A: net.ParseIP(answer)}}
		}
		_ = w.WriteMsg(m)
	})
	var wg sync.WaitGroup
	servers := []*dns.Server{{PacketConn: p, Handler: handler}, {Listener: l, Handler: handler}}
	for _, s := range servers {
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		wg.Go(func() { _ = s.ActivateAndServe() })
		<-ready
	}
	t.Cleanup(func() {
		for _, s := range servers {
			_ = s.Shutdown()
		}
		wg.Wait()
	})
	return o
}

// resolveA resolves a name and returns the answer as text.
func resolveA(t testing.TB, u *upstream, name string, tcp bool) string {
	t.Helper()
	m, err := u.resolve(t.Context(), &swarmv1.ResolverContainer{Id: "c"}, new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA), tcp)
	if err != nil {
		return "error"
	}
	if m.IsEdns0() != nil {
		t.Errorf("%s: the query had no EDNS record, but the answer has one", name)
	}
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			return a.A.String()
		}
	}
	return dns.RcodeToString[m.Rcode]
}

// newTestUpstream returns an upstream with a resolv.conf of its own. The file lists addresses with
// ports, which only this test does.
func newTestUpstream(t testing.TB, servers ...string) *upstream {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver "+strings.Join(servers, "\nnameserver ")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return newUpstream(path)
}

func TestUpstream_CachesAndFailsOver(t *testing.T) {
	a, b := newFakeUpstream(t, "192.0.2.1"), newFakeUpstream(t, "192.0.2.2")
	u := newTestUpstream(t, a.addr, b.addr)
	for range 3 {
		if got := resolveA(t, u, "www.example.com", false); got != "192.0.2.1" {
			t.Fatalf("got %s", got)
		}
		if got := resolveA(t, u, "WWW.example.com", true); got != "192.0.2.1" {
			t.Fatalf("over TCP: got %s", got)
		}
		if got := resolveA(t, u, "none.example.com", false); got != "NXDOMAIN" {
			t.Fatalf("got %s", got)
		}
	}
	if n := a.asked.Load(); n != 2 {
		t.Errorf("the server got %d queries for two names", n)
	}
	// If a server fails, the next one is queried, and the client does not notice.
	a.code.Store(dns.RcodeServerFailure)
	if got := resolveA(t, u, "b.example.com", false); got != "192.0.2.2" {
		t.Errorf("first server fails: got %s", got)
	}
	// A silent server costs its timeout once, not with every query.
	a.silent.Store(true)
	if got := resolveA(t, u, "c.example.com", false); got != "192.0.2.2" {
		t.Errorf("first server is silent: got %s", got)
	}
	before := a.asked.Load()
	for i := range 5 {
		if got := resolveA(t, u, fmt.Sprint("d", i, ".example.com"), false); got != "192.0.2.2" {
			t.Errorf("first server is silent: got %s", got)
		}
	}
	if after := a.asked.Load(); after != before {
		t.Errorf("the silent server got %d more queries", after-before)
	}
	// If all servers fail, the client gets the error code.
	b.code.Store(dns.RcodeRefused)
	if got := resolveA(t, u, "e.example.com", false); got != "REFUSED" {
		t.Errorf("all fail: got %s", got)
	}
}

func TestUpstream_NoticesAnotherResolvConf(t *testing.T) {
	a, b := newFakeUpstream(t, "192.0.2.1"), newFakeUpstream(t, "192.0.2.22")
	u := newTestUpstream(t, a.addr)
	if got := resolveA(t, u, "a.example.com", false); got != "192.0.2.1" {
		t.Fatalf("got %s", got)
	}
	if err := os.WriteFile(u.path, []byte("# new\nnameserver "+b.addr+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "the new server is asked", func() bool {
		return resolveA(t, u, fmt.Sprint("x", time.Now().UnixNano(), ".example.com"), false) == "192.0.2.22"
	})
}

func TestUpstream_SharesEqualQueries(t *testing.T) {
	a := newFakeUpstream(t, "192.0.2.1")
	a.hold.Lock()
	u := newTestUpstream(t, a.addr)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if got := resolveA(t, u, "www.example.com", false); got != "192.0.2.1" {
				t.Errorf("got %s", got)
			}
		})
	}
	// One client goes away. The others must still get an answer.
	gone, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		_, _ = u.resolve(gone, &swarmv1.ResolverContainer{Id: "gone"}, new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA), false)
	})
	eventually.True(t, "the query arrives", func() bool { return a.asked.Load() > 0 })
	cancel()
	a.hold.Unlock()
	wg.Wait()
	if n := a.asked.Load(); n > 3 {
		t.Errorf("the server got %d queries", n)
	}
}

func TestCache_Expires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(maxCache)
		q := query{name: "a.", qtype: dns.TypeA}
		m := new(dns.Msg).SetQuestion("a.", dns.TypeA)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "a.", Rrtype: dns.TypeA, Class: 1, Ttl: 10}, A: net.IPv4(1, 2, 3, 4)}}
		c.put(q, m, time.Now())
		time.Sleep(4 * time.Second)
		if got := c.get(q, time.Now()); got == nil || got.Answer[0].Header().Ttl != 6 {
			t.Fatalf("after 4 of 10 s: got %v", got)
		}
		time.Sleep(6 * time.Second)
		if got := c.get(q, time.Now()); got != nil {
			t.Fatalf("after 10 of 10 s: got %v", got)
		}
		if len(c.entries) != 0 || c.free != maxCache {
			t.Errorf("left: %d entries, free %d of %d", len(c.entries), c.free, maxCache)
		}
		for _, rcode := range []int{dns.RcodeServerFailure, dns.RcodeRefused} {
			m.Rcode = rcode
			c.put(q, m, time.Now())
		}
		m.Rcode, m.Truncated = 0, true
		c.put(q, m, time.Now())
		if len(c.entries) != 0 {
			t.Error("an error or a truncated answer was cached")
		}
	})
}

func TestCache_IsBounded(t *testing.T) {
	c := newCache(10 << 10)
	now := time.Now()
	for i := range 1000 {
		name := fmt.Sprint("n", i, ".")
		m := new(dns.Msg).SetQuestion(name, dns.TypeA)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: 1, Ttl: 10}, A: net.IPv4(1, 2, 3, 4)}}
		c.put(query{name: name}, m, now)
	}
	if n := len(c.entries); n < 10 || n > 40 || n != c.order.Len() {
		t.Errorf("%d entries in 10 KiB", n)
	}
	if c.get(query{name: "n999."}, now) == nil || c.get(query{name: "n0."}, now) != nil {
		t.Error("the most recent entries are not the ones that stay")
	}
}
