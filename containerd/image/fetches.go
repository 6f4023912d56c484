//go:build linux

package image

import (
	"context"
	"sync"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// sharedFetches lets callers that want the same image share one fetch. The fetch ends when it is
// complete, or when the last of its callers has given up.
type sharedFetches struct {
	wg sync.WaitGroup

	mu     sync.Mutex // guards byKey and closed
	byKey  map[fetchKey]*sharedFetch
	closed bool
}

// sharedFetch is one fetch. err is set before done is closed.
type sharedFetch struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error

	mu        sync.Mutex // guards the fields below; held while listeners are called
	callers   int
	listeners map[int]func(*swarmv1.ImageProgress)
	next      int
}

// do runs fetch, or joins the fetch that runs under the same key. The context of fetch does not end
// with the context of a single caller. progress may be nil.
func (f *sharedFetches) do(ctx context.Context, key fetchKey, progress func(*swarmv1.ImageProgress), fetch func(context.Context, func(*swarmv1.ImageProgress)) error) error {
	fl, leave, err := f.join(ctx, key, progress, fetch)
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

// join adds a caller to the fetch under the key, and starts the fetch if there is none. The caller
// must call leave.
func (f *sharedFetches) join(ctx context.Context, key fetchKey, progress func(*swarmv1.ImageProgress), fetch func(context.Context, func(*swarmv1.ImageProgress)) error) (*sharedFetch, func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, nil, errdefs.ErrUnavailable.WithMessage("the image store is closing")
	}
	fl := f.byKey[key]
	if fl == nil {
		run, cancel := context.WithCancel(context.WithoutCancel(ctx))
		fl = &sharedFetch{cancel: cancel, done: make(chan struct{}), listeners: map[int]func(*swarmv1.ImageProgress){}}
		if f.byKey == nil {
			f.byKey = map[fetchKey]*sharedFetch{}
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

// leave removes a caller from a fetch. If no caller is left, it cancels the fetch, and removes it
// from byKey, so that later callers do not join a cancelled fetch.
func (f *sharedFetches) leave(key fetchKey, fl *sharedFetch, id int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.mu.Lock()
	defer fl.mu.Unlock()
	delete(fl.listeners, id)
	fl.callers--
	if fl.callers == 0 {
		fl.cancel()
		f.dropLocked(key, fl)
	}
}

func (f *sharedFetches) dropLocked(key fetchKey, fl *sharedFetch) {
	if f.byKey[key] == fl {
		delete(f.byKey, key)
	}
}

func (fl *sharedFetch) tell(m *swarmv1.ImageProgress) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	for _, l := range fl.listeners {
		l(m)
	}
}

// close cancels all fetches and waits for their end. Later calls of do return ErrUnavailable.
func (f *sharedFetches) close() {
	f.mu.Lock()
	f.closed = true
	for _, fl := range f.byKey {
		fl.cancel()
	}
	f.mu.Unlock()
	f.wg.Wait()
}
