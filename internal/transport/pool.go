package transport

import (
	"container/list"
	"net/netip"

	"github.com/containerd/errdefs"
)

var (
	errEvicted = errdefs.ErrResourceExhausted.WithMessage("closed in favour of a newer connection: there are too many callers without a certificate")
	errTooMany = errdefs.ErrResourceExhausted.WithMessage("the peer has too many connections to this node: close some")
)

// pool limits the connections of callers that have not proved an identity. If the pool or the share
// of an origin is full, the pool evicts an old connection for the new one. An honest caller needs
// its connection for a moment only, while an attacker would keep its connections. A full pool
// evicts the oldest connection of the origin with the most connections, so an origin can never
// evict the connections of an origin that has fewer. A pool is not safe for concurrent use.
type pool struct {
	// max limits all connections. perOrigin limits the connections of one origin.
	max, perOrigin int

	size    int
	origins map[netip.Prefix]*list.List // of *trackedConn, oldest first; a list is never empty
}

// newPool makes a pool of limit connections. One origin may have limit/share connections, and at
// least one.
func newPool(limit, share int) *pool {
	return &pool{max: limit, perOrigin: max(limit/share, 1), origins: map[netip.Prefix]*list.List{}}
}

// add adds a connection. It returns the connection that must be closed for it, or nil if there is
// room for both.
func (p *pool) add(c *trackedConn) (evicted *trackedConn) {
	of := p.origins[c.origin]
	switch {
	case of != nil && of.Len() >= p.perOrigin:
		evicted = of.Front().Value.(*trackedConn)
	case p.size >= p.max:
		evicted = p.oldestOfLargest()
	}
	if evicted != nil {
		p.remove(evicted)
	}
	if of = p.origins[c.origin]; of == nil {
		of = list.New()
		p.origins[c.origin] = of
	}
	c.pool, c.element = p, of.PushBack(c)
	p.size++
	return evicted
}

// oldestOfLargest returns the oldest connection of the origin with the most connections. If several
// origins have the most, it returns the oldest connection of them all.
func (p *pool) oldestOfLargest() *trackedConn {
	var found *trackedConn
	most := 0
	for _, of := range p.origins {
		first := of.Front().Value.(*trackedConn)
		if of.Len() > most || (of.Len() == most && first.since.Before(found.since)) {
			found, most = first, of.Len()
		}
	}
	return found
}

// remove removes a connection. It does nothing if the connection is not in the pool, or if the pool
// is nil.
func (p *pool) remove(c *trackedConn) {
	if p == nil || c.pool != p {
		return
	}
	of := p.origins[c.origin]
	of.Remove(c.element)
	if of.Len() == 0 {
		delete(p.origins, c.origin)
	}
	c.pool, c.element = nil, nil
	p.size--
}
