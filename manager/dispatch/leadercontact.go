package dispatch

import (
	"sync"
	"time"
)

// leaderContact measures for how long leaders have answered this manager's reports without a long
// gap between two answers. While managers are in touch with a leader, a worker can begin a session.
// Without a leader it cannot, because the leader commits the start of every session. The methods
// may be called concurrently.
type leaderContact struct {
	mu    sync.Mutex // guards the rest
	since time.Time  // the first answer after the last long gap; zero: no leader has answered yet
	last  time.Time  // the newest answer; zero: no leader has answered yet
}

// answered notes that a leader has answered now. If the previous answer is at least gap ago, the
// measurement starts again.
func (c *leaderContact) answered(now time.Time, gap time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.last) >= gap {
		c.since = now
	}
	c.last = now
}

// unbroken returns the time since the first of the answers that came without a pause of gap or more
// between them. It returns 0 if the last answer is at least gap ago.
func (c *leaderContact) unbroken(now time.Time, gap time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.last) >= gap {
		return 0
	}
	return now.Sub(c.since)
}
