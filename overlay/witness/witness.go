// Package witness asks nodes that gossip takes for dead whether they are.
//
// Gossip goes by packets that are not sent again: on a line that loses some, or beside a host that stands still for a
// moment, it declares the living dead; and it cannot tell a host from its daemon, without which containers go on. So a
// death is believed when nobody answers at the node's cluster port either. A refusal is an answer. Any member can claim
// that another is dead, so that the question is also what makes the claim true. Nodes that said goodbye are not asked: a
// goodbye carries the signature of the node that says it. Who has not answered for a while, or has said goodbye, is dead beyond doubt: nothing else that is at
// fault lasts so long. It is asked rarely from then on.
//
// It owns the verdicts, while gossip holds on to its own, and asks again until then. It refuses to bring anybody back whom gossip has not lost.
// Caller: adapter/dataplane. Goroutines: those of a round of questions, which waits for them.
package witness

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
	// Patience is how long a node has to answer.
	Patience = time.Second
	// askers go one after the other, askerPause apart, until one has an answer: that a line which loses one packet in twenty
	// loses all of them is one case in a thousand.
	askers     = 3
	askerPause = Patience / 5
	// atOnce is how many nodes are asked at a time. Any member can claim that all others have failed.
	atOnce = 32
	// again is the pause between two rounds of questions. One that is dead beyond doubt is asked less and less often, down to
	// once in seldom: gossip tells of it when it comes back, unless gossip alone is cut off.
	again  = time.Second
	seldom = 16 * time.Second
	// Certain is how long nobody has to answer for it to be beyond doubt: a host that stands still itself comes to in less.
	Certain = 5 * time.Second
)

// Suspects are what gossip says at one moment.
type Suspects struct {
	// Failed nodes do not answer gossip, or a member claims so; Left ones have said goodbye with their own signature.
	Failed, Left []string
}

// Deps of a witness.
type Deps struct {
	Log *slog.Logger
	// Suspects lists them, with a channel that is closed at the next change.
	Suspects func() (Suspects, <-chan struct{})
	// Knock connects to a node's cluster port and hangs up.
	Knock func(ctx context.Context, id string) error
}

// Verdict lists nodes in order.
type Verdict struct {
	// Dead nodes do not answer; Certain are those of them of whom there is no doubt.
	Dead, Certain []string
}

// Witness is safe for several goroutines.
type Witness struct {
	deps Deps

	mu      sync.Mutex // guards what follows
	verdict Verdict
	changed chan struct{} // closed and replaced when verdict changes
}

// New returns a witness that takes nobody for dead.
func New(deps Deps) *Witness { return &Witness{deps: deps, changed: make(chan struct{})} }

// Verdict says who is dead, with a channel that is closed when that changes.
func (w *Witness) Verdict() (Verdict, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.verdict, w.changed
}

// silence is of a node that does not answer.
type silence struct {
	since time.Time // the first time of those in a row
	next  time.Time // when it is asked again; zero: in each round
	pause time.Duration
}

// Run asks until ctx ends.
func (w *Witness) Run(ctx context.Context) error {
	dead := map[string]silence{}
	for {
		s, changed := w.deps.Suspects()
		var due, silent []string
		for _, id := range s.Failed {
			if time.Now().Before(dead[id].next) {
				silent = append(silent, id)
			} else {
				due = append(due, id)
			}
		}
		silent = append(silent, w.ask(ctx, due)...)
		if ctx.Err() != nil {
			return nil
		}
		maps.DeleteFunc(dead, func(id string, _ silence) bool { return !slices.Contains(silent, id) })
		certain := slices.Clone(s.Left)
		for _, id := range silent {
			d := dead[id]
			if d.since.IsZero() {
				d.since = time.Now()
			}
			if time.Since(d.since) >= Certain {
				certain = append(certain, id)
				if slices.Contains(due, id) {
					d.pause = min(max(2*d.pause, again), seldom)
					d.next = time.Now().Add(d.pause)
				}
			}
			dead[id] = d
		}
		w.conclude(Verdict{Dead: append(silent, s.Left...), Certain: certain})
		if len(s.Failed) == 0 {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if err := pause.For(ctx, again); err != nil {
			return nil
		}
	}
}

// ask gives those that do not answer.
func (w *Witness) ask(ctx context.Context, ids []string) []string {
	var (
		asking errgroup.Group
		mu     sync.Mutex // guards silent
		silent []string
	)
	asking.SetLimit(atOnce)
	for _, id := range ids {
		asking.Go(func() error {
			if !w.answers(ctx, id) {
				mu.Lock()
				defer mu.Unlock()
				silent = append(silent, id)
			}
			return nil
		})
	}
	_ = asking.Wait() // nobody returns an error
	return silent
}

func (w *Witness) answers(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	heard := make(chan bool, askers)
	for i := range askers {
		go func() {
			if pause.For(ctx, time.Duration(i)*askerPause) != nil { // another has an answer
				heard <- false
				return
			}
			err := w.deps.Knock(ctx, id)
			heard <- err == nil || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
		}()
	}
	alive := false
	for range askers { // all of them end with ctx
		if <-heard {
			alive = true
			cancel()
		}
	}
	return alive
}

func (w *Witness) conclude(v Verdict) {
	slices.Sort(v.Dead)
	slices.Sort(v.Certain)
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.Equal(v.Dead, w.verdict.Dead) && slices.Equal(v.Certain, w.verdict.Certain) {
		return
	}
	w.deps.Log.Info("nodes that do not answer", "nodes", v.Dead, "certain", v.Certain)
	w.verdict = v
	close(w.changed)
	w.changed = make(chan struct{})
}
