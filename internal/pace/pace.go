// Package pace bounds how often something may be done: so many times at once, and once more each
// period. It owns no goroutine.
package pace

import (
	"sync"
	"time"
)

// Budget is what may be done: Burst times at once, and once more each Period.
type Budget struct {
	Burst  int
	Period time.Duration
}

// take spends n of a budget that is whole again at the time full, if at least one is left: what goes
// beyond the budget is a debt that the periods to come pay. It returns when the budget is whole
// again, or, when nothing is left, how long it takes until something is.
func (b Budget) take(n int, full, now time.Time) (next time.Time, wait time.Duration) {
	if full.Before(now) {
		full = now
	}
	if over := full.Add(b.Period).Sub(now) - time.Duration(b.Burst)*b.Period; over > 0 {
		return full, over
	}
	return full.Add(time.Duration(n) * b.Period), 0
}

// maxKeys bounds the callers that are remembered.
const maxKeys = 4096

// Each gives every caller a budget of its own. It remembers those that have not all of theirs, up to
// 4096; further ones share one budget, that of the zero K. New makes it. It is safe for concurrent
// use.
type Each[K comparable] struct {
	budget Budget

	mu    sync.Mutex // guards the rest
	swept time.Time  // when forget last looked
	// full has, for each caller, when all of its budget is back. One that is not there has all of it.
	full map[K]time.Time
}

// New makes an Each in which every caller has the budget.
func New[K comparable](b Budget) *Each[K] {
	return &Each[K]{budget: b, full: map[K]time.Time{}}
}

// Take spends one of a caller's budget. When nothing is left of it, it returns how long it takes
// until something is.
func (e *Each[K]) Take(who K) (wait time.Duration) { return e.TakeN(who, 1) }

// TakeN is Take of n at once, which may be more than is left, and more than the burst: the caller
// then waits until the debt is paid. With n = 0 it spends nothing.
func (e *Each[K]) TakeN(who K, n int) (wait time.Duration) {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, known := e.full[who]; !known && len(e.full) >= maxKeys {
		e.forget(now)
		if len(e.full) >= maxKeys {
			var rest K
			who = rest
		}
	}
	e.full[who], wait = e.budget.take(n, e.full[who], now)
	return wait
}

// forget drops the callers that have all of their budget.
func (e *Each[K]) forget(now time.Time) {
	if now.Sub(e.swept) < e.budget.Period {
		return // A crowd does not have all looked at with each call.
	}
	e.swept = now
	for who, full := range e.full {
		if !full.After(now) {
			delete(e.full, who)
		}
	}
}
