//go:build linux

package resolve

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxCache is the cache's size in bytes of answers.
	maxCache = 2 << 20
	// An answer is remembered for as long as it says, within these; that there is none, for less.
	maxPositive, maxNegative = time.Hour, 5 * time.Minute
	// overhead is what an entry costs beside its answer, in bytes, roughly.
	overhead = 300
)

// cache remembers what others answered. The least recently used goes first.
type cache struct {
	mu      sync.Mutex // guards what follows
	room    int
	entries map[question]*list.Element
	order   *list.List // of *cached, the latest first
}

type cached struct {
	q      question
	answer []byte
	from   time.Time
	until  time.Time
}

func newCache(size int) *cache {
	return &cache{room: size, entries: make(map[question]*list.Element), order: list.New()}
}

// get returns an answer with what is left of its time, or nil.
func (c *cache) get(q question, now time.Time) *dns.Msg {
	c.mu.Lock()
	e, ok := c.entries[q]
	if !ok {
		c.mu.Unlock()
		return nil
	}
	entry := e.Value.(*cached)
	if !now.Before(entry.until) {
		c.drop(e)
		c.mu.Unlock()
		return nil
	}
	c.order.MoveToFront(e)
	c.mu.Unlock()
	m := new(dns.Msg)
	if m.Unpack(entry.answer) != nil {
		return nil
	}
	age := uint32(now.Sub(entry.from) / time.Second)
	for _, rr := range records(m) {
		rr.Header().Ttl -= min(rr.Header().Ttl, age)
	}
	return m
}

// put remembers an answer if it may be.
func (c *cache) put(q question, m *dns.Msg, now time.Time) {
	lasts := lifetime(m)
	if lasts <= 0 {
		return
	}
	b, err := m.Pack()
	if err != nil || len(b) > maxCache/16 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.entries[q]; ok {
		c.drop(old)
	}
	c.entries[q] = c.order.PushFront(&cached{q: q, answer: b, from: now, until: now.Add(lasts)})
	for c.room -= len(b) + overhead; c.room < 0; {
		c.drop(c.order.Back())
	}
}

// drop needs the lock.
func (c *cache) drop(e *list.Element) {
	entry := c.order.Remove(e).(*cached)
	delete(c.entries, entry.q)
	c.room += len(entry.answer) + overhead
}

// lifetime is how long an answer holds; 0: it is not to be remembered.
func lifetime(m *dns.Msg) time.Duration {
	if m.Truncated || (m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError) {
		return 0
	}
	if m.Rcode == dns.RcodeNameError || len(m.Answer) == 0 {
		// RFC 2308: the zone's SOA says how long there is nothing.
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				return min(time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second, maxNegative)
			}
		}
		return 0
	}
	lasts := maxPositive
	for _, rr := range records(m) {
		lasts = min(lasts, time.Duration(rr.Header().Ttl)*time.Second)
	}
	return lasts
}

// records lists all but the pseudo-record of EDNS, whose time to live is none.
func records(m *dns.Msg) []dns.RR {
	var out []dns.RR
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if rr.Header().Rrtype != dns.TypeOPT {
				out = append(out, rr)
			}
		}
	}
	return out
}
