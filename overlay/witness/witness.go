// Package witness asks nodes that gossip takes for dead whether they are.
//
// Gossip goes by packets that are not sent again: on a line that loses some, or beside a host that stands still for a
// moment, it declares the living dead; and it cannot tell a host from its daemon, without which containers go on. So a
// death is believed when nobody answers at the node's cluster port either. A refusal is an answer. Nodes that said goodbye
// are not asked.
//
// It owns the verdicts, while gossip holds on to its own, and asks again until then. It refuses to bring anybody back whom gossip has not lost.
// Caller: the data plane's wiring in cmd. Goroutines: those of a round of questions, which waits for them.
package witness

import (
	"context"
	"errors"
	"log/slog"
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
)

// Suspects are what gossip says at one moment.
type Suspects struct {
	// Failed nodes do not answer gossip; Left ones said that they go.
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

// Witness is safe for several goroutines.
type Witness struct {
	deps Deps

	mu      sync.Mutex // guards what follows
	dead    []string
	changed chan struct{} // closed and replaced when dead changes
}

// New returns a witness that takes nobody for dead.
func New(deps Deps) *Witness { return &Witness{deps: deps, changed: make(chan struct{})} }

// Dead lists the nodes that are dead, in order, and a channel that is closed at the next change.
func (w *Witness) Dead() ([]string, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead, w.changed
}

// Run asks until ctx ends.
func (w *Witness) Run(ctx context.Context) error {
	for {
		s, changed := w.deps.Suspects()
		silent := w.ask(ctx, s.Failed)
		if ctx.Err() != nil {
			return nil
		}
		w.conclude(append(silent, s.Left...))
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

func (w *Witness) conclude(dead []string) {
	slices.Sort(dead)
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.Equal(dead, w.dead) {
		return
	}
	w.deps.Log.Info("nodes that do not answer", "nodes", dead)
	w.dead = dead
	close(w.changed)
	w.changed = make(chan struct{})
}
