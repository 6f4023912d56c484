//go:build linux

package exec

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
)

// outlet passes the output of a process to the caller until close is called. After that it discards
// the output, which children of the process may still write.
type outlet struct {
	mu     sync.Mutex // guards closed; held while the caller's writers are called
	closed bool
	wrote  chan struct{} // of capacity 1; has a token when something was written
}

func newOutlet() *outlet { return &outlet{wrote: make(chan struct{}, 1)} }

// to returns a writer to w. If w is nil, the output is discarded.
func (o *outlet) to(w io.Writer) io.Writer {
	if w == nil {
		w = io.Discard
	}
	return outletWriter{o, w}
}

type outletWriter struct {
	*outlet
	w io.Writer
}

func (o outletWriter) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return len(p), nil
	}
	n, err := o.w.Write(p)
	select {
	case o.wrote <- struct{}{}:
	default:
	}
	return n, err
}

// close makes the writers discard their input. It waits for a write in progress.
func (o *outlet) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
}

// drain waits for the end of the streams. If other processes hold them open, it waits until nothing
// has arrived for drainQuiet, but no longer than drainGrace.
func (o *outlet) drain(ctx context.Context, streams cio.IO) {
	read := make(chan struct{})
	go func() { // It ends when cleanUp closes the streams.
		defer close(read)
		streams.Wait()
	}()
	grace := time.After(drainGrace)
	for {
		select {
		case <-read:
			return
		case <-ctx.Done():
			return
		case <-grace:
			return
		case <-o.wrote:
		case <-time.After(drainQuiet):
			return
		}
	}
}
