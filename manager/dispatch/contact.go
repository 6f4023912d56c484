package dispatch

import (
	"sync"
	"time"
)

// contact remembers since when leaders have answered this manager without a long gap. During that
// time a worker could begin a session somewhere; without a leader it cannot, because the leader
// commits the session's start. All methods may be called at once.
type contact struct {
	mu    sync.Mutex // guards the rest
	since time.Time  // the first answer after the last long gap; zero when there was none
	last  time.Time  // the newest answer
}

// answered notes that a leader has answered. A gap of at least gap since the last answer is long.
func (c *contact) answered(now time.Time, gap time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.last) >= gap {
		c.since = now
	}
	c.last = now
}

// unbroken returns how long leaders have answered without a long gap, and 0 during a long gap.
func (c *contact) unbroken(now time.Time, gap time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.last) >= gap {
		return 0
	}
	return now.Sub(c.since)
}
