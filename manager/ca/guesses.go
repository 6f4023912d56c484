package ca

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// guessBurst is how many wrong join tokens one origin may try at once, and guessEvery how long
	// it then waits for each further one. A person who mistypes needs a few. The secrets are too
	// long to be guessed at any rate: what is limited is the work that each attempt makes.
	guessBurst = 10
	guessEvery = 10 * time.Second
	// maxOrigins bounds the origins that are remembered. Further ones share one budget.
	maxOrigins = 4096
)

// guesses limits the wrong join tokens of each origin. The zero value is ready. It is safe for
// concurrent use.
type guesses struct {
	mu sync.Mutex // guards of
	// of has, for each origin, when all of its budget is back. An origin that is not there has all
	// of it.
	of map[netip.Prefix]time.Time
}

// allow takes one attempt from the budget of an origin, and reports whether there was one.
func (g *guesses) allow(from netip.Prefix) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if _, known := g.of[from]; !known && len(g.of) >= maxOrigins {
		g.forget(now)
		if len(g.of) >= maxOrigins {
			from = netip.Prefix{} // the shared budget
		}
	}
	full := g.of[from]
	if full.Before(now) {
		full = now
	}
	full = full.Add(guessEvery)
	if full.Sub(now) > guessBurst*guessEvery {
		return false
	}
	if g.of == nil {
		g.of = make(map[netip.Prefix]time.Time)
	}
	g.of[from] = full
	return true
}

// forget drops the origins that have all of their budget.
func (g *guesses) forget(now time.Time) {
	for from, full := range g.of {
		if !full.After(now) {
			delete(g.of, from)
		}
	}
}
