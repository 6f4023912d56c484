package dispatch

import (
	"context"
	"time"

	"swarm/internal/broadcast"
)

// lagAfter is how long a node may take to program the assignments that it was sent. A node that
// takes longer lags: AwaitProgrammed does not wait for it until it has caught up. Without this
// limit, a user who has root on a worker could hold up every task that stops, and every update, for
// ever.
const lagAfter = 3 * time.Second

// progress compares what a session was marked with to what its worker has programmed. The session's
// mutex guards it; the signal has its own.
//
// Two numbers count up in a session. The generation counts the marks: each says that something may
// have to be sent. The sequence counts the Assignments messages. A message covers all marks up to a
// generation. When the worker acknowledges the sequence of the message, it has programmed
// everything up to that generation.
type progress struct {
	generation uint64    // of the newest mark
	programmed uint64    // the newest generation that the worker has programmed
	unsentAt   time.Time // when the first mark came that no message covers yet; zero when all are covered
	pending    []pending // the messages that the worker has not acknowledged, oldest first
	acked      uint64    // the newest sequence that the worker has acknowledged
	changed    broadcast.Signal
}

// pending is a message that the worker has not acknowledged. It covers the marks up to a generation
// that no earlier message covers. The first of them came at the time since.
type pending struct {
	generation, sequence uint64
	since                time.Time
}

// mark counts one mark.
func (p *progress) mark(now time.Time) {
	p.generation++
	if p.unsentAt.IsZero() {
		p.unsentAt = now
	}
}

// behindSince returns when the oldest mark came that the worker has not programmed. It is zero when
// the worker has programmed everything.
func (p *progress) behindSince() time.Time {
	if len(p.pending) > 0 {
		return p.pending[0].since
	}
	return p.unsentAt
}

// covered notes that the messages up to a sequence cover all marks up to a generation. If the marks
// changed nothing for the node, no message was sent, and the sequence is the same as in the last
// call.
func (p *progress) covered(generation, sequence uint64, now time.Time) {
	since := p.unsentAt
	if since.IsZero() {
		since = now
	}
	p.unsentAt = time.Time{}
	if generation < p.generation { // marks have come since the sender took its work
		p.unsentAt = now
	}
	switch n := len(p.pending); {
	case sequence <= p.acked:
		// The worker has programmed all that was sent, and the marks needed no further message.
		p.advance(generation)
	case n > 0 && p.pending[n-1].sequence == sequence:
		// No new message: the acknowledgement of the last one covers these marks too.
		p.pending[n-1].generation = generation
	default:
		p.pending = append(p.pending, pending{generation, sequence, since})
	}
}

// acknowledged notes that the worker has programmed the assignments up to a sequence.
func (p *progress) acknowledged(sequence uint64) {
	p.acked = max(p.acked, sequence)
	for len(p.pending) > 0 && p.pending[0].sequence <= sequence {
		p.advance(p.pending[0].generation)
		p.pending = p.pending[1:]
	}
}

// advance sets the newest generation that the worker has programmed.
func (p *progress) advance(generation uint64) {
	if generation > p.programmed {
		p.programmed = generation
		p.changed.Broadcast()
	}
}

// awaitCaughtUp waits until the worker has programmed everything that its session is marked with
// now, or until the worker lags. open is false when the session or ctx is over.
func (x *session) awaitCaughtUp(ctx context.Context) (open, lags bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for want := x.progress.generation; x.progress.programmed < want; {
		changed, left := x.progress.changed.Changed(), time.Until(x.progress.behindSince().Add(lagAfter))
		if left <= 0 {
			return !x.isClosed, true
		}
		x.mu.Unlock()
		lag := time.NewTimer(left)
		select {
		case <-changed:
		case <-lag.C:
		case <-x.done:
		case <-ctx.Done():
		}
		lag.Stop()
		x.mu.Lock()
		if x.isClosed || ctx.Err() != nil {
			return false, false
		}
	}
	return !x.isClosed, false
}
