package dispatch

import (
	"context"
	"time"

	"swarm/internal/broadcast"
)

// lagAfter is how long a node may take to act on what it was sent. Then nobody waits for it until
// it has caught up. Otherwise whoever has root on a worker could hold up every task that stops, and
// every update, for ever.
const lagAfter = 3 * time.Second

// progress compares what a session was marked with to what its worker has acted on. The session's
// mutex guards it; the signal has its own.
//
// A generation is the number of marks so far. Each message covers the marks up to some generation,
// so that the worker's acknowledgement of a sequence tells up to which generation it has acted.
type progress struct {
	generation uint64    // newest one
	programmed uint64    // newest one that the worker has acted on
	unsentAt   time.Time // when the first mark came that is not in pending; zero when all are
	pending    []pending // sent, and not acted on yet, in order
	sequence   uint64    // of the newest assignments that the worker has acted on
	changed    broadcast.Signal
}

// pending says that the assignments of a sequence cover all marks up to a generation, of which the
// first came at the given time.
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

// behindSince returns since when the worker has had something to act on. It is zero when there is
// nothing.
func (p *progress) behindSince() time.Time {
	if len(p.pending) > 0 {
		return p.pending[0].since
	}
	return p.unsentAt
}

// sent notes that all marks up to a generation are sent, the last of them in the assignments of a
// sequence.
func (p *progress) sent(generation, sequence uint64, now time.Time) {
	since := p.unsentAt
	if since.IsZero() {
		since = now
	}
	if p.unsentAt = now; generation == p.generation {
		p.unsentAt = time.Time{}
	}
	switch n := len(p.pending); {
	case sequence <= p.sequence: // no message was necessary, and the worker has acted on all before
		p.reach(generation)
	case n > 0 && p.pending[n-1].sequence == sequence: // no message was necessary
		p.pending[n-1].generation = generation
	default:
		p.pending = append(p.pending, pending{generation, sequence, since})
	}
}

// applied notes that the worker has acted on the assignments up to a sequence.
func (p *progress) applied(sequence uint64) {
	p.sequence = max(p.sequence, sequence)
	for len(p.pending) > 0 && p.pending[0].sequence <= sequence {
		p.reach(p.pending[0].generation)
		p.pending = p.pending[1:]
	}
}

func (p *progress) reach(generation uint64) {
	if generation > p.programmed {
		p.programmed = generation
		p.changed.Broadcast()
	}
}

// waitProgrammed waits until the worker has acted on everything that its session is marked with
// now, or until the worker lags. open is false when the session or ctx is over.
func (x *session) waitProgrammed(ctx context.Context) (open, lags bool) {
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
