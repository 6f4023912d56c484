package raftstore

import (
	"sync"

	swarmv1 "swarm/proto/swarm/v1"
)

// requestSession numbers the requests that this member proposes, so that Apply executes each of
// them only once. Each start of a manager makes a new session with a random id. The type of the
// same name in package table is the other side: it stores the answers of one session.
type requestSession struct {
	id []byte

	mu               sync.Mutex // guards the rest
	lastSequence     uint64     // the sequence number of the newest request; the first is 1
	lowestUnanswered uint64     // lastSequence + 1 if every request is answered
	unanswered       map[uint64]struct{}
}

func newRequestSession(id []byte) *requestSession {
	return &requestSession{id: id, lowestUnanswered: 1, unanswered: make(map[uint64]struct{})}
}

// begin assigns the session and the next sequence number to a request.
func (c *requestSession) begin(r *swarmv1.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastSequence++
	c.unanswered[c.lastSequence] = struct{}{}
	r.Session, r.Sequence, r.LowestUnanswered = c.id, c.lastSequence, c.lowestUnanswered
}

// end records that the request will not be proposed again.
func (c *requestSession) end(r *swarmv1.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.unanswered, r.GetSequence())
	for c.lowestUnanswered <= c.lastSequence {
		if _, open := c.unanswered[c.lowestUnanswered]; open {
			return
		}
		c.lowestUnanswered++
	}
}
