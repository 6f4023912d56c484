// Package detector is the failure detector: it probes the nodes that gossip reports as failed, and
// decides which of them are dead.
//
// Gossip alone is not enough, for three reasons. Gossip does not send a lost packet again, so it
// reports a live node as failed if the network loses packets or if the host pauses for a moment. It
// cannot distinguish a dead host from a dead daemon, whose containers continue to run. And any
// member can claim that another member has failed. So the detector counts a node as dead only if
// gossip reports it as failed and nothing answers at its cluster port. A refused connection is an
// answer, because the host is up.
//
// The detector does not probe a node that has left: the node is dead, because it has signed its
// goodbye. The death of a node is confirmed when the node has left, or has not answered for
// ConfirmAfter. A lossy network or a paused host recovers sooner. A firewall that blocks the
// cluster port and gossip looks like a dead host, and is treated as one. The detector probes a
// confirmed node less and less often.
//
// The detector judges only nodes that gossip reports as failed or left, and repeats its probes
// while gossip does so. Its caller is adapter/dataplane. Goroutines: those of one round of probes;
// Run waits for them.
package detector

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"swarm/internal/pause"
)

const (
	// ProbeTimeout is how long a node has to answer in one round.
	ProbeTimeout = time.Second
	// probeAttempts is how many connections to a node one round tries, attemptPause apart, until
	// the node answers one. If the network loses 5 % of the packets, all attempts of a round fail
	// in one round of a thousand.
	probeAttempts = 3
	attemptPause  = ProbeTimeout / 5
	// maxConcurrent is how many nodes are probed at the same time. It bounds the traffic if a
	// member claims that all others have failed.
	maxConcurrent = 32
	// probeInterval is the pause between two rounds. For a confirmed node it doubles with each
	// round, up to maxProbeInterval. That is often enough: usually gossip reports the node when it
	// comes back, and the probes are needed only if gossip's traffic is blocked.
	probeInterval    = time.Second
	maxProbeInterval = 16 * time.Second
	// ConfirmAfter is how long a node must not answer before its death is confirmed. A host that
	// only pauses answers sooner.
	ConfirmAfter = 5 * time.Second
)

// Suspects are the nodes that gossip reports as failed or left.
type Suspects struct {
	// Failed has the ids of the nodes that gossip reports as failed. The only evidence may be the
	// claim of one other member.
	Failed []string
	// Left has the ids of the nodes that have said goodbye with their own signature.
	Left []string
}

// Deps are the live objects that a Detector uses.
type Deps struct {
	Log *slog.Logger
	// Suspects returns the present suspects, and a channel that is closed when they change.
	Suspects func() (Suspects, <-chan struct{})
	// Probe connects to the cluster port of a node and closes the connection. The node has answered
	// if the error is nil, ECONNREFUSED or ECONNRESET.
	Probe func(ctx context.Context, id string) error
}

// Verdict lists the dead nodes. Both lists are sorted by id.
type Verdict struct {
	// Dead has the ids of the nodes that do not answer or have left.
	Dead []string
	// Confirmed has the ids of those nodes in Dead that have left or have not answered for
	// ConfirmAfter.
	Confirmed []string
}

// Detector decides which nodes are dead. It is safe for concurrent use.
type Detector struct {
	deps Deps

	mu      sync.Mutex // guards the fields below
	verdict Verdict
	changed chan struct{} // closed and replaced when verdict changes
}

// New returns a Detector with an empty verdict. Run keeps the verdict up to date.
func New(deps Deps) *Detector { return &Detector{deps: deps, changed: make(chan struct{})} }

// Verdict returns the present verdict, and a channel that is closed when it changes. The caller
// must not modify the lists.
func (d *Detector) Verdict() (Verdict, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.verdict, d.changed
}

// silence is a series of rounds in which a node has not answered.
type silence struct {
	since time.Time     // when the first of these rounds ended
	next  time.Time     // when to probe the node again; zero: in each round
	pause time.Duration // the last pause before next; zero until the death is confirmed
}

// Run probes the suspects until ctx ends, and then returns nil. It works in rounds, with a pause of
// probeInterval between two rounds. A suspect that gossip reports during a round or a pause waits
// for the next round, so that a member cannot cause more rounds by its claims.
func (d *Detector) Run(ctx context.Context) error {
	silences := map[string]silence{} // by node
	for {
		s, changed := d.deps.Suspects()
		// due are the nodes to probe now. silent are the failed nodes that do not answer. A node
		// that is not due has not answered the last probe, so it is silent without another probe.
		var due, silent []string
		for _, id := range s.Failed {
			if time.Now().Before(silences[id].next) {
				silent = append(silent, id)
			} else {
				due = append(due, id)
			}
		}
		silent = append(silent, d.probe(ctx, due)...)
		if ctx.Err() != nil {
			return nil
		}
		maps.DeleteFunc(silences, func(id string, _ silence) bool { return !slices.Contains(silent, id) })
		confirmed := slices.Clone(s.Left)
		for _, id := range silent {
			n := silences[id]
			if n.since.IsZero() {
				n.since = time.Now()
			}
			if time.Since(n.since) >= ConfirmAfter {
				confirmed = append(confirmed, id)
				if slices.Contains(due, id) {
					n.pause = min(max(2*n.pause, probeInterval), maxProbeInterval)
					n.next = time.Now().Add(n.pause)
				}
			}
			silences[id] = n
		}
		d.setVerdict(Verdict{Dead: append(silent, s.Left...), Confirmed: confirmed})
		if len(s.Failed) == 0 {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if err := pause.For(ctx, probeInterval); err != nil {
			return nil
		}
	}
}

// probe probes the nodes with these ids, and returns the ids of those that do not answer.
func (d *Detector) probe(ctx context.Context, ids []string) []string {
	var (
		probes errgroup.Group
		mu     sync.Mutex // guards silent
		silent []string
	)
	probes.SetLimit(maxConcurrent)
	for _, id := range ids {
		probes.Go(func() error {
			if !d.answers(ctx, id) {
				mu.Lock()
				defer mu.Unlock()
				silent = append(silent, id)
			}
			return nil
		})
	}
	_ = probes.Wait() // The functions return no error.
	return silent
}

// answers reports whether a node answers one of probeAttempts connections within ProbeTimeout.
func (d *Detector) answers(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, ProbeTimeout)
	defer cancel()
	results := make(chan bool, probeAttempts)
	for i := range probeAttempts {
		go func() {
			if pause.For(ctx, time.Duration(i)*attemptPause) != nil {
				results <- false // The node has answered another attempt, or ctx has ended.
				return
			}
			err := d.deps.Probe(ctx, id)
			results <- err == nil || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
		}()
	}
	alive := false
	for range probeAttempts { // Each attempt sends one result, at the latest when ctx ends.
		if <-results {
			alive = true
			cancel()
		}
	}
	return alive
}

// setVerdict sorts the verdict. If it differs from the stored verdict, setVerdict stores and logs
// it, and closes the channel that Verdict has returned.
func (d *Detector) setVerdict(v Verdict) {
	slices.Sort(v.Dead)
	slices.Sort(v.Confirmed)
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Equal(v.Dead, d.verdict.Dead) && slices.Equal(v.Confirmed, d.verdict.Confirmed) {
		return
	}
	d.deps.Log.Info("the set of dead nodes has changed", "dead", v.Dead, "confirmed", v.Confirmed)
	d.verdict = v
	close(d.changed)
	d.changed = make(chan struct{})
}
