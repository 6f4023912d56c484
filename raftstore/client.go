package raftstore

import (
	"sync"

	swarmv1 "swarm/proto/swarm/v1"
)

// client numbers the requests of this member. Every start of a manager is a new session.
type client struct {
	session []byte

	mu           sync.Mutex // guards lastSequence, lowestOpen and unanswered
	lastSequence uint64
	lowestOpen   uint64 // lowest sequence number that is not answered
	unanswered   map[uint64]struct{}
}

func newClient(session []byte) *client {
	return &client{session: session, lowestOpen: 1, unanswered: make(map[uint64]struct{})}
}

// begin assigns the session and the next sequence number to a request.
func (c *client) begin(r *swarmv1.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastSequence++
	c.unanswered[c.lastSequence] = struct{}{}
	r.Session, r.Sequence, r.Answered = c.session, c.lastSequence, c.lowestOpen
}

// end records that the request will not be proposed again.
func (c *client) end(r *swarmv1.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unanswered, r.GetSequence())
	for c.lowestOpen <= c.lastSequence {
		if _, open := c.unanswered[c.lowestOpen]; open {
			return
		}
		c.lowestOpen++
	}
}
