// Package pace implements rate limits: a burst of actions at once, and one more action in each
// period. It runs no goroutine.
package pace

import (
	"sync"
	"time"
)

// Budget is a rate limit: Burst actions at once, and one more in each Period.
type Budget struct {
	Burst  int
	Period time.Duration
}

// take spends n actions of a budget that is full again at the time full, if at least one action is
// left. Actions beyond the budget are a debt, which the following periods pay. take returns the
// time at which the budget is full again. If no action is left, it returns how long the caller must
// wait for one.
func (b Budget) take(n int, full, now time.Time) (next time.Time, wait time.Duration) {
	if full.Before(now) {
		full = now
	}
	if over := full.Add(b.Period).Sub(now) - time.Duration(b.Burst)*b.Period; over > 0 {
		return full, over
	}
	return full.Add(time.Duration(n) * b.Period), 0
}

// maxKeys limits the remembered callers.
const maxKeys = 4096

// Each gives every caller a budget of its own. It remembers up to 4096 callers whose budget is not
// full. Further callers share one budget, that of the zero K. New makes an Each. It is safe for
// concurrent use.
type Each[K comparable] struct {
	budget Budget

	mu    sync.Mutex // guards swept and full
	swept time.Time  // the time of the last forget
	// full has, for each caller, the time at which its budget is full again. A caller that is not
	// in the map has a full budget.
	full map[K]time.Time
}

// New makes an Each in which every caller has the budget.
func New[K comparable](b Budget) *Each[K] {
	return &Each[K]{budget: b, full: map[K]time.Time{}}
}

// Take spends one action of the budget of a caller. If none is left, it returns how long the caller
// must wait for one.
func (e *Each[K]) Take(who K) (wait time.Duration) { return e.TakeN(who, 1) }

// TakeN is Take for n actions at once. n may exceed the rest of the budget and even the burst: the
// caller then waits until the debt is paid. With n = 0 it spends nothing.
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

// forget removes the callers whose budget is full.
func (e *Each[K]) forget(now time.Time) {
	if now.Sub(e.swept) < e.budget.Period {
		return // scan the callers at most once a period, however many calls come
	}
	e.swept = now
	for who, full := range e.full {
		if !full.After(now) {
			delete(e.full, who)
		}
	}
}
