//go:build linux

package containerd

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
)

// outlet hands the output of an exec to its caller until the caller has left: processes that the exec has started may write
// to the same output later.
type outlet struct {
	mu     sync.Mutex // guards closed; held while the caller's writers are called
	closed bool
	wrote  chan struct{} // one token: something was written
}

func newOutlet() *outlet { return &outlet{wrote: make(chan struct{}, 1)} }

// to returns a writer to w. Nil w: what is written is thrown away.
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

// close returns when nothing is written any more.
func (o *outlet) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
}

// drain waits for the end of the streams. Where processes that go on hold them open, it waits until nothing has come for
// drainQuiet, and no longer than drainGrace.
func (o *outlet) drain(ctx context.Context, streams cio.IO) {
	read := make(chan struct{})
	go func() { // ends when the streams are closed, in the clean-up
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
