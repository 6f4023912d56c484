package dispatch

import "time"

const (
	// factsBurst and factsPeriod bound how often descriptions and image reports of one session are committed: so many at
	// once, and one more each period. Only the newest counts, so an honest worker loses nothing when it waits.
	factsBurst  = 20
	factsPeriod = 500 * time.Millisecond
	// opensBurst and opensPeriod bound how often one node may open a session, each of which is a write of the leader's.
	opensBurst  = 20
	opensPeriod = time.Second
)

// pace is a token bucket: burst events at once, and one more each period. The zero value of taken is a full bucket.
type pace struct {
	burst  int
	period time.Duration
	taken  time.Duration // what has been taken and not come back, in time
	at     time.Time     // of taken
}

// take takes a token. Without one it returns how long it takes until there is one.
func (p *pace) take(now time.Time) (wait time.Duration) {
	left := max(0, p.taken-now.Sub(p.at))
	if over := left + p.period - time.Duration(p.burst)*p.period; over > 0 {
		return over
	}
	p.taken, p.at = left+p.period, now
	return 0
}
