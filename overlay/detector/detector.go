// Package detector is the failure detector: it probes the nodes that gossip reports as failed, and
// decides which of them are dead.
//
// Gossip alone is not enough, for three reasons. Its packets are not sent again when they are lost,
// so a lossy line or a host that pauses for a moment makes it report live nodes as failed. It
// cannot tell a dead host from a dead daemon, whose containers run on. And any member can claim
// that another member has failed. So a node is dead only if gossip reports it as failed and nothing
// answers at its cluster port. A refused connection is an answer, because the host is up.
//
// A node that has left is dead without a probe: its goodbye carries its own signature. The death of
// a node is confirmed when it has left, or has not answered for ConfirmAfter: no other fault lasts
// so long. A confirmed node is probed less and less often.
//
// The detector judges only nodes that gossip reports as failed or left, and repeats its probes for
// as long as gossip does so. Caller: adapter/dataplane. Goroutines: those of one
// round of probes; Run waits for them.
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
	// probeAttempts is how many connections one round tries, attemptPause apart, until one is
	// answered. On a line that loses one packet in twenty, all of them fail in one round of a
	// thousand.
	probeAttempts = 3
	attemptPause  = ProbeTimeout / 5
	// maxConcurrent is how many nodes are probed at the same time. It bounds the traffic if a
	// member claims that all others have failed.
	maxConcurrent = 32
	// probeInterval is the pause between two rounds. For a confirmed node it doubles with each
	// round, up to maxProbeInterval: gossip reports the node when it comes back, unless only
	// gossip's traffic is blocked.
	probeInterval    = time.Second
	maxProbeInterval = 16 * time.Second
	// ConfirmAfter is how long a node must be silent before its death is confirmed. A host that
	// pauses is back sooner.
	ConfirmAfter = 5 * time.Second
)

// Suspects are the nodes that gossip reports as failed or left.
type Suspects struct {
	// Failed has the ids of the nodes that do not answer gossip, or of which a member claims so.
	Failed []string
	// Left has the ids of the nodes that have said goodbye with their own signature.
	Left []string
}

// Deps are what a Detector calls.
type Deps struct {
	Log *slog.Logger
	// Suspects returns the present suspects, and a channel that is closed when they change.
	Suspects func() (Suspects, <-chan struct{})
	// Probe connects to the cluster port of a node and closes the connection. The node has answered
	// if the error is nil, ECONNREFUSED or ECONNRESET.
	Probe func(ctx context.Context, id string) error
}

// Verdict is which nodes are dead. Both lists are sorted by id.
type Verdict struct {
	// Dead has the ids of the nodes that do not answer or have left.
	Dead []string
	// Confirmed has the ids in Dead of nodes that have left or have not answered for ConfirmAfter.
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
	pause time.Duration // until next, once the death is confirmed
}

// Run probes the suspects until ctx ends, and then returns nil.
func (d *Detector) Run(ctx context.Context) error {
	silences := map[string]silence{} // by node
	for {
		s, changed := d.deps.Suspects()
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

// probe runs one round, and returns the ids of the nodes that do not answer.
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
			if pause.For(ctx, time.Duration(i)*attemptPause) != nil { // Another attempt was answered.
				results <- false
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

// setVerdict sorts and stores the verdict. If it differs from the former one, setVerdict logs it
// and closes the channel of the former one.
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
