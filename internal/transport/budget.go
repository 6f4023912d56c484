package transport

import (
	"container/list"
	"net/netip"

	"github.com/containerd/errdefs"
)

var (
	errCrowded = errdefs.ErrResourceExhausted.WithMessage("dropped in favour of newer connections: there are too many from callers without a certificate")
	errTooMany = errdefs.ErrResourceExhausted.WithMessage("the peer has too many connections to this node: close some")
)

// pool bounds the connections of callers that have proven nothing. A full pool drops an old connection for a new one,
// because a caller in good faith needs its connection for a moment, and one in bad faith would keep it. The connection that
// goes is the oldest of the origin with the most connections: no origin can push out one that has fewer. A pool is not safe
// for concurrent use.
type pool struct {
	// max bounds all connections, perOrigin those of one origin.
	max, perOrigin int

	size    int
	origins map[netip.Prefix]*list.List // of *tracked, oldest first; never empty
}

// newPool makes a pool of which one origin has at most the given part.
func newPool(limit, part int) *pool {
	return &pool{max: limit, perOrigin: max(limit/part, 1), origins: map[netip.Prefix]*list.List{}}
}

// add takes a connection in and returns one that must be closed for it, nil if there is room for both.
func (p *pool) add(c *tracked) (dropped *tracked) {
	of := p.origins[c.origin]
	switch {
	case of != nil && of.Len() >= p.perOrigin:
		dropped = of.Front().Value.(*tracked)
	case p.size >= p.max:
		dropped = p.oldestOfLargest()
	}
	if dropped != nil {
		p.remove(dropped)
	}
	if of = p.origins[c.origin]; of == nil {
		of = list.New()
		p.origins[c.origin] = of
	}
	c.in, c.place = p, of.PushBack(c)
	p.size++
	return dropped
}

// oldestOfLargest returns the oldest connection of the origin with the most; among equal ones, the oldest of all.
func (p *pool) oldestOfLargest() *tracked {
	var found *tracked
	most := 0
	for _, of := range p.origins {
		first := of.Front().Value.(*tracked)
		if of.Len() > most || (of.Len() == most && first.since.Before(found.since)) {
			found, most = first, of.Len()
		}
	}
	return found
}

// remove takes a connection out. One that is not in the pool is no error, nor is a nil pool.
func (p *pool) remove(c *tracked) {
	if p == nil || c.in != p {
		return
	}
	of := p.origins[c.origin]
	of.Remove(c.place)
	if of.Len() == 0 {
		delete(p.origins, c.origin)
	}
	c.in, c.place = nil, nil
	p.size--
}
