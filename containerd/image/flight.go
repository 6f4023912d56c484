//go:build linux

package image

import (
	"context"
	"sync"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// flights lets callers that want the same image share one fetch. The fetch ends when it is
// complete, or when its last caller has left.
type flights struct {
	wg sync.WaitGroup

	mu     sync.Mutex // guards byKey and closed
	byKey  map[fetchKey]*flight
	closed bool
}

// flight is one fetch. err is set before done is closed.
type flight struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error

	mu        sync.Mutex // guards the fields below; held while listeners are called
	callers   int
	listeners map[int]func(*swarmv1.ImageProgress)
	next      int
}

// do runs fetch, or joins the fetch that runs under the same key. The context of fetch has no
// deadline of any caller. progress may be nil.
func (f *flights) do(ctx context.Context, key fetchKey, progress func(*swarmv1.ImageProgress), fetch func(context.Context, func(*swarmv1.ImageProgress)) error) error {
	fl, leave, err := f.board(ctx, key, progress, fetch)
	if err != nil {
		return err
	}
	defer leave()
	select {
	case <-fl.done:
		return fl.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *flights) board(ctx context.Context, key fetchKey, progress func(*swarmv1.ImageProgress), fetch func(context.Context, func(*swarmv1.ImageProgress)) error) (*flight, func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, nil, errdefs.ErrUnavailable.WithMessage("the image store is closing")
	}
	fl := f.byKey[key]
	if fl == nil {
		run, cancel := context.WithCancel(context.WithoutCancel(ctx))
		fl = &flight{cancel: cancel, done: make(chan struct{}), listeners: map[int]func(*swarmv1.ImageProgress){}}
		if f.byKey == nil {
			f.byKey = map[fetchKey]*flight{}
		}
		f.byKey[key] = fl
		f.wg.Go(func() {
			defer cancel()
			fl.err = fetch(run, fl.tell)
			f.mu.Lock()
			f.dropLocked(key, fl)
			f.mu.Unlock()
			close(fl.done)
		})
	}
	fl.mu.Lock()
	defer fl.mu.Unlock()
	fl.callers++
	id := fl.next
	fl.next++
	if progress != nil {
		fl.listeners[id] = progress
	}
	return fl, func() { f.leave(key, fl, id) }, nil
}

// leave removes a caller. It cancels a flight without callers and removes it at once, so that no
// caller joins it.
func (f *flights) leave(key fetchKey, fl *flight, id int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.mu.Lock()
	defer fl.mu.Unlock()
	delete(fl.listeners, id)
	if fl.callers--; fl.callers == 0 {
		fl.cancel()
		f.dropLocked(key, fl)
	}
}

func (f *flights) dropLocked(key fetchKey, fl *flight) {
	if f.byKey[key] == fl {
		delete(f.byKey, key)
	}
}

func (fl *flight) tell(m *swarmv1.ImageProgress) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	for _, l := range fl.listeners {
		l(m)
	}
}

// close cancels all flights and waits for their end. Later calls of do fail.
func (f *flights) close() {
	f.mu.Lock()
	f.closed = true
	for _, fl := range f.byKey {
		fl.cancel()
	}
	f.mu.Unlock()
	f.wg.Wait()
}
