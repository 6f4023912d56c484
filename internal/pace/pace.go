// Package pace implements rate limits. A caller may do a number of actions without a pause (the
// burst), and then one more action in each period. The package runs no goroutine.
package pace

import (
	"sync"
	"time"
)

// Budget is a rate limit: Burst actions without a pause, and one more action in each Period.
type Budget struct {
	Burst  int
	Period time.Duration
}

// take spends n actions if at least one action is left. full is the time at which the budget is
// full again, and next is that time after the n actions. n may be larger than the rest of the
// budget: the caller then has no action until the following periods have made up for the
// difference. If no action is left, take spends nothing, and returns how long the caller must wait
// for one.
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

// Each has a separate budget for every caller. K identifies a caller. Each remembers up to 4096
// callers whose budget is not full. Further callers share the budget of the zero K. New makes an
// Each. It is safe for concurrent use.
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

// TakeN spends n actions of the budget of a caller if at least one is left. n may be larger than
// the rest of the budget, and even than the burst: the next actions then have to wait longer. With
// n = 0 it spends nothing. If no action is left, TakeN returns how long the caller must wait for
// one.
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
