//go:build linux

package peer

import (
	"context"
	"io"
	"sync"
	"time"

	"swarm/internal/pause"
)

// limitBurst bounds the bytes that may be sent without waiting after a silence: as many as rate
// allows in this time.
const limitBurst = 100 * time.Millisecond

// limiter bounds how many bytes a second are sent to all other nodes together.
type limiter struct {
	rate int64 // bytes a second; 0: any number

	mu   sync.Mutex // guards free
	free time.Time  // when all bytes of earlier calls would have been sent at exactly this rate
}

// wait returns when n further bytes may be sent, or with the error of ctx.
func (l *limiter) wait(ctx context.Context, n int) error {
	if l.rate <= 0 || n == 0 {
		return nil
	}
	l.mu.Lock()
	if least := time.Now().Add(-limitBurst); l.free.Before(least) {
		l.free = least
	}
	l.free = l.free.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	free := l.free
	l.mu.Unlock()
	return pause.For(ctx, time.Until(free))
}

// limited reads no faster than the limiter allows.
type limited struct {
	io.ReadSeeker
	ctx     context.Context // of the request that is answered
	limiter *limiter
}

func (l limited) Read(p []byte) (int, error) {
	n, err := l.ReadSeeker.Read(p)
	if werr := l.limiter.wait(l.ctx, n); werr != nil {
		return 0, werr
	}
	return n, err
}
