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
// A generation is a number of marks: generation 5 stands for the first five marks of the session.
// An Assignments message covers the marks up to some generation. When the worker acknowledges the
// sequence of that message, it has programmed everything up to that generation.
type progress struct {
	generation uint64    // of the newest mark
	programmed uint64    // the newest generation that the worker has programmed
	unsentAt   time.Time // when the first mark came that is not sent yet; zero when all are sent
	pending    []pending // sent and not programmed yet, oldest first
	sequence   uint64    // of the newest assignments that the worker has programmed
	changed    broadcast.Signal
}

// pending says that the assignments of a sequence cover all marks up to a generation. The first of
// these marks that no earlier assignments cover came at the time since.
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

// behindSince returns since when the worker has had something to program. It is zero when the
// worker has programmed everything.
func (p *progress) behindSince() time.Time {
	if len(p.pending) > 0 {
		return p.pending[0].since
	}
	return p.unsentAt
}

// worked notes that the sender has worked off the marks up to a generation. sequence is that of the
// newest assignments that it has ever sent: if the marks changed nothing for the node, there was
// nothing to send, and the sequence is the same as in the last call.
func (p *progress) worked(generation, sequence uint64, now time.Time) {
	since := p.unsentAt
	if since.IsZero() {
		since = now
	}
	p.unsentAt = time.Time{}
	if generation < p.generation { // marks came while the sender worked
		p.unsentAt = now
	}
	switch n := len(p.pending); {
	case sequence <= p.sequence:
		// The worker has programmed these assignments, so it has programmed the marks too.
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
	p.sequence = max(p.sequence, sequence)
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
