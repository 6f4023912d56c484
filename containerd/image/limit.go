//go:build linux

package image

import (
	"context"
	"io"
	"sync"
	"time"

	"swarm/internal/pause"
)

// limitBurst is how much time's worth of bytes may go at once after a rest.
const limitBurst = 100 * time.Millisecond

// limiter bounds how fast blobs go to other nodes, all together.
type limiter struct {
	rate int64 // bytes a second; 0: any number

	mu   sync.Mutex // guards free
	free time.Time  // when all that was let through has had its time
}

// wait returns when n more bytes may go.
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

// limited reads at the limiter's pace.
type limited struct {
	io.ReadSeeker
	ctx     context.Context // of the request that it answers
	limiter *limiter
}

func (l limited) Read(p []byte) (int, error) {
	n, err := l.ReadSeeker.Read(p)
	if werr := l.limiter.wait(l.ctx, n); werr != nil {
		return 0, werr
	}
	return n, err
}
