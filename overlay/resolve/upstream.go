//go:build linux

package resolve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"

	"swarm/overlay/netns"
	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// A client waits 5 s before it asks again: by then every server has been asked, and most of them twice.
	tryFor, askFor = 1200 * time.Millisecond, 4800 * time.Millisecond
	// ailing servers are asked after the others for this long.
	ailing = 10 * time.Second
	// staleAfter is how long a change of resolv.conf may go unnoticed.
	staleAfter = time.Second
	// ednsSize is what we take of an answer in one datagram; more would be fragmented on many paths.
	ednsSize = 1232
)

// upstream asks the name servers of the host, or of a container.
type upstream struct {
	cache  *cache
	flight singleflight.Group

	hits, misses atomic.Uint64

	mu sync.Mutex // guards what follows
	// host's servers, as of when resolv.conf had this stamp, looked at then.
	path    string
	servers []string
	stamp   stamp
	looked  time.Time
	// failed says when a server last did not answer. Those of containers are told apart by their addresses
	// only: it changes no more than the order.
	failed map[string]time.Time
}

type stamp struct {
	modified time.Time
	size     int64
}

func newUpstream(resolvConf string) *upstream {
	return &upstream{cache: newCache(maxCache), path: resolvConf, failed: make(map[string]time.Time)}
}

// question is what an answer depends on.
type question struct {
	// asker is the container when it has name servers of its own.
	asker       string
	name        string
	kind, class uint16
	// dnssec and unchecked are the bits that change what is answered.
	dnssec, unchecked bool
}

func (q question) String() string {
	return fmt.Sprintf("%s %s %d %d %t %t", q.asker, q.name, q.kind, q.class, q.dnssec, q.unchecked)
}

// ask returns the answer to req by others: from the cache, or by asking. Several who ask the same at once are
// answered by one question.
func (u *upstream) ask(ctx context.Context, c *swarmv1.ResolverContainer, req *dns.Msg, tcp bool) (*dns.Msg, error) {
	q := question{name: dns.CanonicalName(req.Question[0].Name), kind: req.Question[0].Qtype, class: req.Question[0].Qclass, unchecked: req.CheckingDisabled}
	if opt := req.IsEdns0(); opt != nil {
		q.dnssec = opt.Do()
	}
	servers, pin := u.hostServers(), ""
	if len(c.Upstreams) > 0 {
		servers, pin, q.asker = withPort(c.Upstreams), c.Netns, c.Id
	}
	if m := u.cache.get(q, time.Now()); m != nil {
		u.hits.Add(1)
		return fit(m, req), nil
	}
	u.misses.Add(1)
	key := q.String()
	if tcp {
		key += " tcp"
	}
	for {
		result := u.flight.DoChan(key, func() (any, error) {
			ctx, cancel := context.WithTimeout(ctx, askFor)
			defer cancel()
			m, err := u.askAll(ctx, servers, pin, q, tcp)
			if err == nil {
				u.cache.put(q, m, time.Now())
			}
			return m, err
		})
		select {
		case r := <-result:
			if r.Err == nil {
				return fit(r.Val.(*dns.Msg).Copy(), req), nil
			}
			// Unless it was for another that was asked, who is gone.
			if !errors.Is(r.Err, context.Canceled) {
				return nil, r.Err
			}
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// fit makes an answer that of a certain question, which may have other letters large.
func fit(m, req *dns.Msg) *dns.Msg {
	m.Id, m.Question = req.Id, req.Question
	m.Response, m.RecursionDesired, m.RecursionAvailable, m.Compress = true, req.RecursionDesired, true, true
	if opt := req.IsEdns0(); opt == nil {
		m.Extra = slices.DeleteFunc(m.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
	}
	return m
}

// askAll asks the servers in turn until one answers, those that did not answer lately last, and all of
// them again. What a server says of itself (refused, failure) is returned when no other knows better.
func (u *upstream) askAll(ctx context.Context, servers []string, pin string, q question, tcp bool) (*dns.Msg, error) {
	var poor *dns.Msg
	last := fmt.Errorf("there is no name server: %w", errdefs.ErrUnavailable)
	for round := range 2 {
		for _, server := range u.byHealth(servers) {
			m, err := u.askOne(ctx, server, pin, q, tcp)
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			u.note(server, err)
			switch {
			case err != nil:
				last = fmt.Errorf("name server %s: %w", server, err)
			case m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError:
				return m, nil
			default:
				poor = m
			}
		}
		if poor != nil && round == 0 {
			return poor, nil
		}
	}
	if poor != nil {
		return poor, nil
	}
	return nil, last
}

// askOne uses a socket of its own, and so a random port, for each question.
func (u *upstream) askOne(ctx context.Context, server, pin string, q question, tcp bool) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	network := "udp"
	if tcp {
		network = "tcp"
	}
	conn, err := dial(ctx, pin, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// Closing the socket is what ends the exchange with ctx.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	req := new(dns.Msg)
	req.Id = dns.Id()
	req.RecursionDesired, req.CheckingDisabled = true, q.unchecked
	req.Question = []dns.Question{{Name: q.name, Qtype: q.kind, Qclass: q.class}}
	req.SetEdns0(ednsSize, q.dnssec)
	client := dns.Client{Net: network, Timeout: tryFor, UDPSize: ednsSize}
	m, _, err := client.ExchangeWithConnContext(ctx, req, &dns.Conn{Conn: conn, UDPSize: ednsSize})
	if err != nil {
		return nil, err
	}
	if len(m.Question) != 1 || dns.CanonicalName(m.Question[0].Name) != q.name || m.Question[0].Qtype != q.kind {
		return nil, fmt.Errorf("answer to another question: %w", errdefs.ErrDataLoss)
	}
	if m.Rcode == dns.RcodeFormatError && m.IsEdns0() == nil {
		return nil, fmt.Errorf("it does not speak EDNS: %w", errdefs.ErrNotImplemented)
	}
	return m, nil
}

// dial opens the socket in the host's namespace, or in that with the pin.
func dial(ctx context.Context, pin, network, server string) (net.Conn, error) {
	var d net.Dialer
	if pin == "" {
		return d.DialContext(ctx, network, server)
	}
	ns, err := netns.Open(pin)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var conn net.Conn
	err = ns.Do(func() error {
		conn, err = d.DialContext(ctx, network, server)
		return err
	})
	return conn, err
}

func (u *upstream) note(server string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil {
		delete(u.failed, server)
		return
	}
	for s, at := range u.failed {
		if time.Since(at) > ailing {
			delete(u.failed, s)
		}
	}
	u.failed[server] = time.Now()
}

// byHealth keeps the order but for those that ail.
func (u *upstream) byHealth(servers []string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := slices.Clone(servers)
	rank := func(s string) int {
		if at, ok := u.failed[s]; ok && time.Since(at) < ailing {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(out, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	return out
}

// hostServers reads resolv.conf again when it has changed.
func (u *upstream) hostServers() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.looked) < staleAfter {
		return u.servers
	}
	u.looked = time.Now()
	info, err := os.Stat(u.path)
	if err != nil {
		return u.servers
	}
	now := stamp{info.ModTime(), info.Size()}
	if now == u.stamp {
		return u.servers
	}
	conf, err := dns.ClientConfigFromFile(u.path)
	if err != nil {
		return u.servers
	}
	u.stamp, u.servers = now, withPort(conf.Servers)
	if len(u.servers) == 0 {
		// As resolv.conf(5) has it.
		u.servers = withPort([]string{"127.0.0.1"})
	}
	// Those that are no longer there are forgotten.
	clear(u.failed)
	return u.servers
}

func withPort(servers []string) []string {
	var out []string
	for _, s := range servers {
		if _, _, err := net.SplitHostPort(s); err != nil {
			s = net.JoinHostPort(s, "53")
		}
		out = append(out, s)
	}
	return out
}
