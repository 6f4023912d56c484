//go:build linux

package resolve

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxCache is the size of the cache in bytes, with entryOverhead.
	maxCache = 2 << 20
	// maxPositive and maxNegative limit how long an answer is cached. maxNegative applies to an
	// answer that there is no such name or record.
	maxPositive, maxNegative = time.Hour, 5 * time.Minute
	// entryOverhead is an estimate of the bytes that an entry uses beside its answer.
	entryOverhead = 300
)

// cache holds answers of other name servers. When it is full, it evicts the entry that was not used
// for the longest time.
type cache struct {
	mu      sync.Mutex // guards the fields below
	free    int
	entries map[query]*list.Element
	order   *list.List // of *cacheEntry, the most recently used first
}

type cacheEntry struct {
	q       query
	answer  []byte
	stored  time.Time
	expires time.Time
}

func newCache(size int) *cache {
	return &cache{free: size, entries: make(map[query]*list.Element), order: list.New()}
}

// get returns the cached answer, with lifetimes reduced by its age. It returns nil if there is no
// answer or it has expired.
func (c *cache) get(q query, now time.Time) *dns.Msg {
	c.mu.Lock()
	e, ok := c.entries[q]
	if !ok {
		c.mu.Unlock()
		return nil
	}
	entry := e.Value.(*cacheEntry)
	if !now.Before(entry.expires) {
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
	age := uint32(now.Sub(entry.stored) / time.Second)
	for _, rr := range records(m) {
		rr.Header().Ttl -= min(rr.Header().Ttl, age)
	}
	return m
}

// put caches an answer for its lifetime. It ignores an answer that may not be cached or is larger
// than 1/16 of the cache.
func (c *cache) put(q query, m *dns.Msg, now time.Time) {
	life := lifetime(m)
	if life <= 0 {
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
	c.entries[q] = c.order.PushFront(&cacheEntry{q: q, answer: b, stored: now, expires: now.Add(life)})
	for c.free -= len(b) + entryOverhead; c.free < 0; {
		c.drop(c.order.Back())
	}
}

// drop removes an entry. The caller holds mu.
func (c *cache) drop(e *list.Element) {
	entry := c.order.Remove(e).(*cacheEntry)
	delete(c.entries, entry.q)
	c.free += len(entry.answer) + entryOverhead
}

// lifetime returns how long an answer may be cached, or 0 if it may not be cached.
func lifetime(m *dns.Msg) time.Duration {
	if m.Truncated || (m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError) {
		return 0
	}
	if m.Rcode == dns.RcodeNameError || len(m.Answer) == 0 {
		// RFC 2308: the SOA record of the zone limits how long a negative answer may be cached.
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				return min(time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second, maxNegative)
			}
		}
		return 0
	}
	life := maxPositive
	for _, rr := range records(m) {
		life = min(life, time.Duration(rr.Header().Ttl)*time.Second)
	}
	return life
}

// records returns all records except EDNS's pseudo-record, which has no lifetime.
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
