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
	// serverTimeout limits one attempt at one server, and queryTimeout limits all attempts. A
	// client repeats its query after 5 s. Until then there is time for four attempts: up to four
	// servers can be tried, or each of two servers twice.
	serverTimeout, queryTimeout = 1200 * time.Millisecond, 4800 * time.Millisecond
	// failurePenalty is the time after a failure during which a server is tried after the others.
	failurePenalty = 10 * time.Second
	// resolvConfInterval is the minimum time between checks whether resolv.conf has changed.
	resolvConfInterval = time.Second
	// ednsSize is the maximum size in bytes of an answer over UDP. Larger datagrams are fragmented
	// on many paths.
	ednsSize = 1232
)

// upstream queries the name servers of the host or of a container, and caches the answers.
type upstream struct {
	cache  *cache
	flight singleflight.Group

	hits, misses atomic.Uint64

	mu sync.Mutex // guards the fields below
	// servers are the name servers in the file at path when the file had this version. checkedAt is
	// the time of the last check whether the file has changed.
	path      string
	servers   []string
	version   fileVersion
	checkedAt time.Time
	// lastFailure maps servers to the time at which they last did not answer. It does not
	// distinguish servers of different containers that have the same address, because it changes
	// only the order.
	lastFailure map[string]time.Time
}

type fileVersion struct {
	modified time.Time
	size     int64
}

func newUpstream(resolvConf string) *upstream {
	return &upstream{cache: newCache(maxCache), path: resolvConf, lastFailure: make(map[string]time.Time)}
}

// query has everything that an answer depends on.
type query struct {
	// container is the ID of the container if it has name servers of its own.
	container     string
	name          string
	qtype, qclass uint16
	// dnssecOK and checkingDisabled are the flags DO and CD of the client.
	dnssecOK, checkingDisabled bool
}

func (q query) String() string {
	return fmt.Sprintf("%s %s %d %d %t %t", q.container, q.name, q.qtype, q.qclass, q.dnssecOK, q.checkingDisabled)
}

// resolve returns the answer to req from the cache or from the name servers. Clients that send the
// same query at the same time share one query to the name servers. ctx ends when the container is
// no longer served.
func (u *upstream) resolve(ctx context.Context, c *swarmv1.ResolverContainer, req *dns.Msg, tcp bool) (*dns.Msg, error) {
	q := query{name: dns.CanonicalName(req.Question[0].Name), qtype: req.Question[0].Qtype, qclass: req.Question[0].Qclass, checkingDisabled: req.CheckingDisabled}
	if opt := req.IsEdns0(); opt != nil {
		q.dnssecOK = opt.Do()
	}
	servers, pin := u.hostServers(), ""
	if len(c.Upstreams) > 0 {
		servers, pin, q.container = withPort(c.Upstreams), c.Netns, c.Id
	}
	if m := u.cache.get(q, time.Now()); m != nil {
		u.hits.Add(1)
		return adapt(m, req), nil
	}
	u.misses.Add(1)
	key := q.String()
	if tcp {
		key += " tcp"
	}
	for {
		result := u.flight.DoChan(key, func() (any, error) {
			ctx, cancel := context.WithTimeout(ctx, queryTimeout)
			defer cancel()
			m, err := u.queryServers(ctx, servers, pin, q, tcp)
			if err == nil {
				u.cache.put(q, m, time.Now())
			}
			return m, err
		})
		select {
		case r := <-result:
			if r.Err == nil {
				return adapt(r.Val.(*dns.Msg).Copy(), req), nil
			}
			// The shared query has the context of the container that began it. If that container is
			// no longer served, query again for this client.
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

// adapt changes m, the answer to a shared or cached query, into the answer to req. It sets the ID
// and the flags, and the question as the client wrote it, with its upper and lower case.
func adapt(m, req *dns.Msg) *dns.Msg {
	m.Id, m.Question = req.Id, req.Question
	m.Response, m.RecursionDesired, m.RecursionAvailable, m.Compress = true, req.RecursionDesired, true, true
	if opt := req.IsEdns0(); opt == nil {
		m.Extra = slices.DeleteFunc(m.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
	}
	return m
}

// queryServers tries the servers in turn until one answers. It begins with the servers that have
// not failed recently. If no server answers, it tries each server once more. It returns an error
// code such as REFUSED or SERVFAIL only if no server gives a better answer.
func (u *upstream) queryServers(ctx context.Context, servers []string, pin string, q query, tcp bool) (*dns.Msg, error) {
	var errorAnswer *dns.Msg
	last := fmt.Errorf("no name server is configured: %w", errdefs.ErrUnavailable)
	for round := range 2 {
		for _, server := range u.byHealth(servers) {
			m, err := u.queryServer(ctx, server, pin, q, tcp)
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			u.recordResult(server, err)
			switch {
			case err != nil:
				last = fmt.Errorf("name server %s: %w", server, err)
			case m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError:
				return m, nil
			default:
				errorAnswer = m
			}
		}
		if errorAnswer != nil && round == 0 {
			return errorAnswer, nil
		}
	}
	if errorAnswer != nil {
		return errorAnswer, nil
	}
	return nil, last
}

// queryServer sends one query to one server. Each query has a new socket, so its source port is
// random, which makes answers hard to forge.
func (u *upstream) queryServer(ctx context.Context, server, pin string, q query, tcp bool) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, serverTimeout)
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
	// The exchange does not notice that ctx ends, so close its socket.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	req := new(dns.Msg)
	req.Id = dns.Id()
	req.RecursionDesired, req.CheckingDisabled = true, q.checkingDisabled
	req.Question = []dns.Question{{Name: q.name, Qtype: q.qtype, Qclass: q.qclass}}
	req.SetEdns0(ednsSize, q.dnssecOK)
	client := dns.Client{Net: network, Timeout: serverTimeout, UDPSize: ednsSize}
	m, _, err := client.ExchangeWithConnContext(ctx, req, &dns.Conn{Conn: conn, UDPSize: ednsSize})
	if err != nil {
		return nil, err
	}
	if len(m.Question) != 1 || dns.CanonicalName(m.Question[0].Name) != q.name || m.Question[0].Qtype != q.qtype {
		return nil, fmt.Errorf("answer to another question: %w", errdefs.ErrDataLoss)
	}
	if m.Rcode == dns.RcodeFormatError && m.IsEdns0() == nil {
		return nil, fmt.Errorf("the server does not support EDNS: %w", errdefs.ErrNotImplemented)
	}
	return m, nil
}

// dial opens the socket in the network namespace that is pinned at pin. If pin is empty, it opens
// the socket in the host's namespace.
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

func (u *upstream) recordResult(server string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil {
		delete(u.lastFailure, server)
		return
	}
	for s, at := range u.lastFailure {
		if time.Since(at) > failurePenalty {
			delete(u.lastFailure, s)
		}
	}
	u.lastFailure[server] = time.Now()
}

// byHealth returns the servers in their order, but with those that failed during the last
// failurePenalty at the end.
func (u *upstream) byHealth(servers []string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := slices.Clone(servers)
	rank := func(s string) int {
		if at, ok := u.lastFailure[s]; ok && time.Since(at) < failurePenalty {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(out, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	return out
}

// hostServers returns the host's name servers. It reads resolv.conf again if the file has changed.
func (u *upstream) hostServers() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.checkedAt) < resolvConfInterval {
		return u.servers
	}
	u.checkedAt = time.Now()
	info, err := os.Stat(u.path)
	if err != nil {
		return u.servers
	}
	now := fileVersion{info.ModTime(), info.Size()}
	if now == u.version {
		return u.servers
	}
	conf, err := dns.ClientConfigFromFile(u.path)
	if err != nil {
		return u.servers
	}
	u.version, u.servers = now, withPort(conf.Servers)
	if len(u.servers) == 0 {
		// resolv.conf(5) defines this default.
		u.servers = withPort([]string{"127.0.0.1"})
	}
	// Remove the servers that are no longer listed.
	clear(u.lastFailure)
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
