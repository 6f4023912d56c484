// Package witness asks nodes that gossip takes for dead whether they are.
//
// Gossip goes by packets that are not sent again: on a line that loses some, or beside a host that stands still for a
// moment, it declares the living dead; and it cannot tell a host from its daemon, without which containers go on. So a
// death is believed when nobody answers at the node's cluster port either. A refusal is an answer. Any member can claim
// that another is dead, so that the question is also what makes the claim true. Nodes that said goodbye are not asked: a
// goodbye carries the signature of the node that says it. Who has not answered for a while, or has said goodbye, is dead beyond doubt: nothing else that is at
// fault lasts so long.
//
// It owns the verdicts, while gossip holds on to its own, and asks again until then. It refuses to bring anybody back whom gossip has not lost.
// Caller: the data plane's wiring in cmd. Goroutines: those of a round of questions, which waits for them.
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

	"swarm/internal/pause"
)

const (
	// Patience is how long a node has to answer.
	Patience = time.Second
	// askers go at once: that a line which loses one packet in twenty loses all of them is one case in a thousand.
	askers = 3
	// again is the pause between two rounds of questions.
	again = time.Second
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

// Run asks until ctx ends.
func (w *Witness) Run(ctx context.Context) error {
	since := map[string]time.Time{} // when a node was silent for the first time of those in a row
	for {
		s, changed := w.deps.Suspects()
		silent := w.ask(ctx, s.Failed)
		if ctx.Err() != nil {
			return nil
		}
		maps.DeleteFunc(since, func(id string, _ time.Time) bool { return !slices.Contains(silent, id) })
		certain := slices.Clone(s.Left)
		for _, id := range silent {
			if _, again := since[id]; !again {
				since[id] = time.Now()
			}
			if time.Since(since[id]) >= Certain {
				certain = append(certain, id)
			}
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
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	var (
		asking sync.WaitGroup
		mu     sync.Mutex // guards silent
		silent []string
	)
	for _, id := range ids {
		asking.Go(func() {
			if !w.answers(ctx, id) {
				mu.Lock()
				defer mu.Unlock()
				silent = append(silent, id)
			}
		})
	}
	asking.Wait()
	return silent
}

func (w *Witness) answers(ctx context.Context, id string) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	heard := make(chan bool, askers)
	for range askers {
		go func() {
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
